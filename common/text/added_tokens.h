// Finds added tokens in text, before the text is cut into words.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tandem::text {

// Byte ranges of a text that the template wrote itself; everything else came from outside.
class TrustedRanges {
 public:
  // In rising order; neighbouring ranges become one.
  void Add(size_t begin, size_t end);
  // Whether all of [begin, end) lies in one trusted range.
  bool Contains(size_t begin, size_t end) const;

 private:
  struct Range {
    size_t begin, end;
  };
  std::vector<Range> ranges_;
};

// A trie over added tokens' texts. The leftmost token wins, at one place the longest that may stand there:
// special tokens only where the text is trusted. Immutable after the last Add, hence thread-safe.
class AddedTokenMatcher {
 public:
  // A text given twice keeps its first id.
  void Add(std::string_view text, int32_t id, bool special);
  bool empty() const { return nodes_.size() == 1; }

  struct Match {
    size_t begin = std::string_view::npos;  // npos: none
    size_t end = 0;
    int32_t id = -1;
  };
  // The first match in text[begin, end).
  Match Find(std::string_view text, size_t begin, size_t end, const TrustedRanges& trusted) const;

 private:
  struct Node {
    int32_t id = -1;
    bool special = false;
  };
  Match LongestAt(std::string_view text, size_t begin, size_t end, const TrustedRanges& trusted) const;

  std::vector<Node> nodes_ = {Node{}};
  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node << 8 | byte
  bool starts_[256] = {};                          // bytes that begin some token
};

}  // namespace tandem::text
