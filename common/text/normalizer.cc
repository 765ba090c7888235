#include "common/text/normalizer.h"

#include "common/base/status.h"
#include "common/text/nfc.h"

namespace tandem::text {
namespace {

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != std::string_view::npos; at = found + from.size()) {
    out += text.substr(at, found - at);
    out += to;
  }
  out += text.substr(at);
  return out;
}

}  // namespace

std::string_view NormalizerName(NormalizerKind kind) {
  switch (kind) {
    case NormalizerKind::kNone:
      return "none";
    case NormalizerKind::kNfc:
      return "NFC";
    case NormalizerKind::kSpaceMarks:
      return "Replace";
  }
  TANDEM_CHECK(false);
}

std::string_view Normalize(NormalizerKind kind, std::string_view text, std::string* storage) {
  switch (kind) {
    case NormalizerKind::kNone:
      return text;
    case NormalizerKind::kNfc:
      if (IsPlainlyNfc(text)) return text;
      *storage = ToNfc(text);
      break;
    case NormalizerKind::kSpaceMarks:
      if (text.find(' ') == std::string_view::npos) return text;
      *storage = ReplaceAll(text, " ", kSpaceMarkUtf8);
      break;
  }
  return *storage == text ? text : std::string_view(*storage);
}

std::string SpacesFromMarks(std::string_view text) { return ReplaceAll(text, kSpaceMarkUtf8, " "); }

}  // namespace tandem::text
