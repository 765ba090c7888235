#include "cli/drafted_text.h"

#include <cstdint>

#include "common/base/status.h"

namespace tandem::cli {

absl::StatusOr<std::vector<TextRun>> CutAtSpans(std::string_view text, const nlohmann::json& spans) {
  std::vector<TextRun> runs;
  size_t at = 0;
  const auto append = [&](size_t end, bool drafted) {
    if (end > at) runs.push_back({text.substr(at, end - at), drafted});
    at = end;
  };
  if (!spans.is_null() && !spans.is_array()) return Internal("drafted_spans: not an array");
  for (const nlohmann::json& span : spans) {
    if (!span.is_array() || span.size() != 2 || !span[0].is_number_unsigned() ||
        !span[1].is_number_unsigned()) {
      return Internal("drafted_spans: not a pair of numbers");
    }
    const uint64_t begin = span[0].get<uint64_t>(), end = span[1].get<uint64_t>();
    if (begin < at || end < begin || end > text.size()) {
      return Internal("drafted_spans: [{}, {}] does not fit a text of {} bytes", begin, end, text.size());
    }
    append(begin, false);
    append(end, true);
  }
  append(text.size(), false);
  return runs;
}

}  // namespace tandem::cli
