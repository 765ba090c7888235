// Python's string operations on text of mixed trust. Positions count characters, not bytes.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/jinja_budget.h"
#include "common/text/jinja_value.h"

namespace tandem::text::jinja {

enum class Side { kLeft, kRight, kBoth };
enum class Case { kUpper, kLower, kCapitalize, kTitleMethod, kTitleFilter };

// Where each character begins, then size().
std::vector<size_t> CharacterOffsets(std::string_view text);
int64_t CountCharacters(std::string_view text);

// Without the characters of `characters` (absent: Python's white space) at the ends.
Text Strip(const Text& text, Side side, const std::optional<std::string>& characters);
// str.split: at white space if there is no separator. At most `max_splits` cuts (negative: no limit), counted
// from the right if `from_right`.
absl::StatusOr<List> Split(const Text& text, const std::optional<std::string>& separator, int64_t max_splits,
                           bool from_right, Budget& budget);
absl::StatusOr<List> SplitLines(const Text& text, Budget& budget);
// The first `count` (negative: all) of `from` become `to`.
absl::StatusOr<Text> Replace(const Text& text, const std::string& from, const Text& to, int64_t count,
                             Budget& budget);
// kUnimplemented for letters beyond ASCII.
absl::StatusOr<Text> ChangeCase(const Text& text, Case to);
absl::StatusOr<Text> Repeat(const Text& text, int64_t times, Budget& budget);
absl::StatusOr<Text> JoinTexts(const List& items, const Text& separator, Budget& budget);

}  // namespace tandem::text::jinja
