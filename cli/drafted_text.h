// Text as a reader sees it when drafts are shown: runs that came from accepted drafts, and runs of the
// model's own.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::cli {

struct TextRun {
  std::string_view text;  // not empty
  bool drafted = false;
  bool operator==(const TextRun&) const = default;
};

// Cuts `text` at a choice's "drafted_spans": [[begin, end), ...] in bytes, ascending. Null: nothing is
// drafted. kInternal unless the spans lie in the text in order. The runs borrow the text.
absl::StatusOr<std::vector<TextRun>> CutAtSpans(std::string_view text, const nlohmann::json& spans);

}  // namespace tandem::cli
