#include "common/text/utf8.h"

#include "common/base/status.h"

namespace tandem::text {
namespace {

// A lead byte's sequence length and the range its second byte must lie in (table 3-7 of the Unicode
// standard).
struct Lead {
  int length = 0;  // 0: no character begins with this byte
  uint8_t second_min = 0x80, second_max = 0xBF;
};

Lead ClassifyLead(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

}  // namespace

Utf8Step NextUtf8(std::string_view bytes) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(bytes[i]); };
  const Lead lead = ClassifyLead(at(0));
  if (lead.length == 0) return {Utf8Step::kIllFormed, 1};
  if (lead.length == 1) return {Utf8Step::kValid, 1, at(0)};
  char32_t code_point = at(0) & (0x7F >> lead.length);
  for (int i = 1; i < lead.length; ++i) {
    if (static_cast<size_t>(i) == bytes.size()) return {Utf8Step::kIncomplete, i};
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (at(i) < min || at(i) > max) return {Utf8Step::kIllFormed, i};
    code_point = code_point << 6 | (at(i) & 0x3F);
  }
  return {Utf8Step::kValid, lead.length, code_point};
}

size_t FindIllFormedUtf8(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    if (static_cast<uint8_t>(bytes[i]) < 0x80) {
      ++i;
      continue;
    }
    const Utf8Step step = NextUtf8(bytes.substr(i));
    if (step.kind != Utf8Step::kValid) return i;
    i += step.length;
  }
  return std::string_view::npos;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  TANDEM_CHECK(code_point < 0xD800 || (code_point > 0xDFFF && code_point <= 0x10FFFF));
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace tandem::text
