// Byte-pair merging: the lowest-ranked pair of neighbours first, the leftmost among equals, until none is
// left.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tandem::text {

// Immutable after the last Add, hence thread-safe.
class BytePairMerges {
 public:
  // The pair (left, right) becomes `merged`; lower ranks go first. False if the pair has a rank already.
  bool Add(int32_t left, int32_t right, int32_t merged, int32_t rank);
  size_t size() const { return merges_.size(); }

  // Appends what remains of `symbols` after all merges. O(n log n): a queue of pairs over a linked list of
  // symbols.
  void Apply(std::span<const int32_t> symbols, std::vector<int32_t>* out) const;

 private:
  struct Merge {
    int32_t rank, merged;
  };
  const Merge* Find(int32_t left, int32_t right) const;
  // The same for the few symbols of a usual word, without allocations; quadratic.
  void ApplyToWord(std::span<const int32_t> symbols, std::vector<int32_t>* out) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace tandem::text
