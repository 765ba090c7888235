// Values as text.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "common/text/jinja_value.h"

namespace tandem::text::jinja {

// Python's str(): strings as they are, containers as Python writes them.
absl::StatusOr<Text> Print(const Value& value, Budget& budget);

struct JsonStyle {
  int indent = -1;  // -1: one line
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::string item_separator = ", ";  // with indent: ","
  std::string key_separator = ": ";
};
// Python's json.dumps(): keys in their order, non-ASCII and <>&' as they are.
absl::StatusOr<Text> PrintJson(const Value& value, const JsonStyle& style, Budget& budget);

}  // namespace tandem::text::jinja
