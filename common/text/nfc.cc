#include "common/text/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/text/utf8.h"

namespace tandem::text {
namespace {

// STABLE is what separates NFC from a form that would compose what Unicode excludes.
constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
constexpr int kMaxDecomposed = 4;  // characters that one character stands for

int CombiningClass(utf8proc_int32_t code_point) { return utf8proc_get_property(code_point)->combining_class; }

// Each run of marks in rising order of class, equal ones as they came. The library's own ordering takes
// quadratic time, so a prompt of a million marks would take minutes.
void OrderMarks(std::span<utf8proc_int32_t> code_points) {
  for (size_t at = 0; at < code_points.size(); ++at) {
    if (CombiningClass(code_points[at]) == 0) continue;
    const size_t begin = at;
    while (at < code_points.size() && CombiningClass(code_points[at]) != 0) ++at;
    std::stable_sort(
        code_points.begin() + begin, code_points.begin() + at,
        [](utf8proc_int32_t a, utf8proc_int32_t b) { return CombiningClass(a) < CombiningClass(b); });
  }
}

}  // namespace

bool IsPlainlyNfc(std::string_view text) {
  // U+0300 begins with 0xCC, and so does nothing below it.
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0xCC; });
}

std::string ToNfc(std::string_view text) {
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = NextUtf8(text);
    TANDEM_CHECK(step.kind == Utf8Step::kValid);
    text.remove_prefix(step.length);
    utf8proc_int32_t decomposed[kMaxDecomposed];
    const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point),
                                                       decomposed, kMaxDecomposed, kOptions, nullptr);
    TANDEM_CHECK(n >= 1 && n <= kMaxDecomposed);
    code_points.insert(code_points.end(), decomposed, decomposed + n);
  }
  OrderMarks(code_points);
  const utf8proc_ssize_t n = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()), kOptions);
  TANDEM_CHECK(n >= 0);
  std::string out;
  for (utf8proc_ssize_t i = 0; i < n; ++i) AppendUtf8(static_cast<char32_t>(code_points[i]), &out);
  return out;
}

}  // namespace tandem::text
