#include "gateway/http/json_text.h"

#include <fmt/format.h>

#include <iterator>

#include "common/text/utf8.h"

namespace tandem::gateway::http {

void AppendJsonText(std::string_view text, std::string* out) {
  *out += '"';
  size_t copied = 0;  // everything before it is in `out`
  const auto copy_until = [&](size_t end) {
    out->append(text.substr(copied, end - copied));
    copied = end;
  };
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte >= 0x20 && byte < 0x7F && byte != '"' && byte != '\\') {
      ++i;
      continue;
    }
    if (byte >= 0x80) {
      const text::Utf8Step step = text::NextUtf8(text.substr(i));
      if (step.kind != text::Utf8Step::kValid) {
        copy_until(i);
        out->append(text::kReplacementCharacter);
        copied = i + step.length;
      }
      i += step.length;
      continue;
    }
    copy_until(i);
    switch (byte) {
      case '"':
        *out += "\\\"";
        break;
      case '\\':
        *out += "\\\\";
        break;
      case '\n':
        *out += "\\n";
        break;
      case '\r':
        *out += "\\r";
        break;
      case '\t':
        *out += "\\t";
        break;
      default:
        fmt::format_to(std::back_inserter(*out), "\\u{:04x}", byte);
    }
    copied = ++i;
  }
  copy_until(text.size());
  *out += '"';
}

void AppendJsonBytes(std::string_view bytes, std::string* out) {
  *out += '[';
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) *out += ',';
    fmt::format_to(std::back_inserter(*out), "{}", static_cast<unsigned char>(bytes[i]));
  }
  *out += ']';
}

void AppendJsonLogprob(float logprob, std::string* out) {
  if (!(logprob > -9999.0f)) {
    *out += "-9999.0";
    return;
  }
  fmt::format_to(std::back_inserter(*out), "{}", logprob);
}

}  // namespace tandem::gateway::http
