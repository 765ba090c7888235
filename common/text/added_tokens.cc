#include "common/text/added_tokens.h"

#include <algorithm>

namespace tandem::text {

void TrustedRanges::Add(size_t begin, size_t end) {
  if (begin == end) return;
  if (!ranges_.empty() && ranges_.back().end == begin) {
    ranges_.back().end = end;
  } else {
    ranges_.push_back({begin, end});
  }
}

bool TrustedRanges::Contains(size_t begin, size_t end) const {
  const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), begin,
                                      [](size_t value, const Range& range) { return value < range.begin; });
  return after != ranges_.begin() && end <= std::prev(after)->end;
}

void AddedTokenMatcher::Add(std::string_view text, int32_t id, bool special) {
  if (text.empty()) return;
  starts_[static_cast<uint8_t>(text[0])] = true;
  uint32_t node = 0;
  for (const char c : text) {
    const auto [edge, is_new] =
        edges_.try_emplace(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c), nodes_.size());
    if (is_new) nodes_.emplace_back();
    node = edge->second;
  }
  if (nodes_[node].id < 0) nodes_[node] = {id, special};
}

AddedTokenMatcher::Match AddedTokenMatcher::LongestAt(std::string_view text, size_t begin, size_t end,
                                                      const TrustedRanges& trusted) const {
  Match longest;
  uint32_t node = 0;
  for (size_t at = begin; at < end; ++at) {
    const auto edge = edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[at]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const Node& found = nodes_[node];
    if (found.id >= 0 && (!found.special || trusted.Contains(begin, at + 1)))
      longest = {begin, at + 1, found.id};
  }
  return longest;
}

AddedTokenMatcher::Match AddedTokenMatcher::Find(std::string_view text, size_t begin, size_t end,
                                                 const TrustedRanges& trusted) const {
  if (empty()) return {};
  for (size_t at = begin; at < end; ++at) {
    if (!starts_[static_cast<uint8_t>(text[at])]) continue;
    const Match match = LongestAt(text, at, end, trusted);
    if (match.id >= 0) return match;
  }
  return {};
}

}  // namespace tandem::text
