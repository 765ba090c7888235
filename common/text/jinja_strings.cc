#include "common/text/jinja_strings.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "common/text/jinja_print.h"
#include "common/text/utf8.h"

namespace tandem::text::jinja {
namespace {

// str.isspace of Python: White_Space and the four information separators.
bool IsPythonSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// The character that ends at `end`; requires UTF-8 and end > 0.
size_t CharacterBefore(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool IsSpaceAt(std::string_view text, size_t at) {
  return IsPythonSpace(NextUtf8(text.substr(at)).code_point);
}
size_t CharacterLength(std::string_view text, size_t at) { return NextUtf8(text.substr(at)).length; }

// Ranges of words between white space.
std::vector<std::pair<size_t, size_t>> Words(std::string_view text) {
  std::vector<std::pair<size_t, size_t>> words;
  size_t begin = std::string_view::npos;
  for (size_t at = 0; at < text.size(); at += CharacterLength(text, at)) {
    if (IsSpaceAt(text, at)) {
      if (begin != std::string_view::npos) words.emplace_back(begin, at);
      begin = std::string_view::npos;
    } else if (begin == std::string_view::npos) {
      begin = at;
    }
  }
  if (begin != std::string_view::npos) words.emplace_back(begin, text.size());
  return words;
}

List PartsOf(const Text& text, const std::vector<std::pair<size_t, size_t>>& ranges) {
  List parts;
  for (const auto& [begin, end] : ranges) parts.push_back(Value::Of(text.Part(begin, end)));
  return parts;
}

// The last `keep` ranges stay, those before become one that begins where the text does; or the other way
// round.
List LimitedWords(const Text& text, std::vector<std::pair<size_t, size_t>> words, size_t keep,
                  bool from_right) {
  if (words.size() <= keep + 1) return PartsOf(text, words);
  if (from_right) {
    words[words.size() - keep - 1].first = words[0].first;
    words.erase(words.begin(), words.end() - static_cast<int64_t>(keep) - 1);
  } else {
    words[keep].second = words.back().second;
    // The rest keeps its white space at the end, as Python's does.
    words[keep].second = text.size();
    words.resize(keep + 1);
  }
  return PartsOf(text, words);
}

}  // namespace

std::vector<size_t> CharacterOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<uint8_t>(text[at]) & 0xC0) != 0x80) offsets.push_back(at);
  }
  offsets.push_back(text.size());
  return offsets;
}

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

Text Strip(const Text& text, Side side, const std::optional<std::string>& characters) {
  const std::string_view bytes = text.bytes();
  const auto strips = [&](size_t at) {
    if (!characters.has_value()) return IsSpaceAt(bytes, at);
    return characters->find(bytes.substr(at, CharacterLength(bytes, at))) != std::string::npos;
  };
  size_t begin = 0, end = bytes.size();
  if (side != Side::kRight) {
    while (begin < end && strips(begin)) begin += CharacterLength(bytes, begin);
  }
  if (side != Side::kLeft) {
    while (end > begin && strips(CharacterBefore(bytes, end))) end = CharacterBefore(bytes, end);
  }
  return text.Part(begin, end);
}

absl::StatusOr<List> Split(const Text& text, const std::optional<std::string>& separator, int64_t max_splits,
                           bool from_right, Budget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.size()));
  const size_t limit = max_splits < 0 ? SIZE_MAX - 1 : static_cast<size_t>(max_splits);
  if (!separator.has_value()) {
    auto words = Words(text.bytes());
    RETURN_IF_ERROR(budget.Steps(static_cast<int64_t>(words.size())));
    return LimitedWords(text, std::move(words), limit, from_right);
  }
  if (separator->empty()) return InvalidArgument("empty separator");
  std::vector<std::pair<size_t, size_t>> ranges;
  if (from_right) {
    size_t end = text.size();
    for (size_t at; ranges.size() < limit && end >= separator->size() &&
                    (at = text.bytes().rfind(*separator, end - separator->size())) != std::string::npos;
         end = at) {
      RETURN_IF_ERROR(budget.Steps(1));
      ranges.emplace_back(at + separator->size(), end);
    }
    ranges.emplace_back(0, end);
    std::reverse(ranges.begin(), ranges.end());
  } else {
    size_t begin = 0;
    for (size_t at; ranges.size() < limit && (at = text.bytes().find(*separator, begin)) != std::string::npos;
         begin = at + separator->size()) {
      RETURN_IF_ERROR(budget.Steps(1));
      ranges.emplace_back(begin, at);
    }
    ranges.emplace_back(begin, text.size());
  }
  return PartsOf(text, ranges);
}

absl::StatusOr<List> SplitLines(const Text& text, Budget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.size()));
  std::vector<std::pair<size_t, size_t>> ranges;
  const std::string_view bytes = text.bytes();
  size_t begin = 0;
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = NextUtf8(bytes.substr(at));
    const char32_t c = step.code_point;
    size_t next = at + step.length;
    if ((c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029) {
      RETURN_IF_ERROR(budget.Steps(1));
      ranges.emplace_back(begin, at);
      if (c == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
      begin = next;
    }
    at = next;
  }
  if (begin < bytes.size()) ranges.emplace_back(begin, bytes.size());
  return PartsOf(text, ranges);
}

absl::StatusOr<Text> Replace(const Text& text, const std::string& from, const Text& to, int64_t count,
                             Budget& budget) {
  RETURN_IF_ERROR(budget.Bytes(text.size()));
  TextBuilder out(budget);
  size_t copied = 0, at = 0;
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    at = text.bytes().find(from, at);
    if (at == std::string::npos) break;
    RETURN_IF_ERROR(budget.Steps(1));
    RETURN_IF_ERROR(out.AppendPart(text, copied, at));
    RETURN_IF_ERROR(out.Append(to));
    copied = at;
    if (from.empty()) {  // between all characters
      if (at == text.size()) break;
      at += CharacterLength(text.bytes(), at);
    } else {
      copied = at += from.size();
    }
  }
  RETURN_IF_ERROR(out.AppendPart(text, copied, text.size()));
  return out.Take();
}

absl::StatusOr<Text> ChangeCase(const Text& text, Case to) {
  std::string bytes = text.bytes();
  bool in_word = false;  // past a word's first letter
  for (char& c : bytes) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) return Unimplemented("changing the case of text beyond ASCII is not supported");
    const bool upper = to == Case::kUpper || (to != Case::kLower && !in_word);
    c = static_cast<char>(upper ? absl::ascii_toupper(byte) : absl::ascii_tolower(byte));
    if (to == Case::kCapitalize) {
      in_word = true;
    } else if (to == Case::kTitleMethod) {
      in_word = absl::ascii_isalpha(byte);
    } else if (to == Case::kTitleFilter) {
      in_word = !absl::ascii_isspace(byte) && std::string_view("-({[<").find(c) == std::string_view::npos;
    }
  }
  return text.WithBytes(std::move(bytes));
}

absl::StatusOr<Text> Repeat(const Text& text, int64_t times, Budget& budget) {
  TextBuilder out(budget);
  if (text.empty()) return Text();
  for (int64_t i = 0; i < times; ++i) {
    RETURN_IF_ERROR(budget.Steps(1));
    RETURN_IF_ERROR(out.Append(text));
  }
  return out.Take();
}

absl::StatusOr<Text> JoinTexts(const List& items, const Text& separator, Budget& budget) {
  TextBuilder out(budget);
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(budget.Steps(1));
    if (i > 0) RETURN_IF_ERROR(out.Append(separator));
    ASSIGN_OR_RETURN(const Text text, Print(items[i], budget));
    RETURN_IF_ERROR(out.Append(text));
  }
  return out.Take();
}

}  // namespace tandem::text::jinja
