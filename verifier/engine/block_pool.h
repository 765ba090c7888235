// Which KV blocks are free, in use or cached: indices and reference counts only; the memory is the KvCache's.
//
// Every block is in one state, and free() + cached() + in_use() == total() holds at all times:
//
//   kFree   --Take-->    kInUse    one reference
//   kInUse  --Share-->   kInUse    one reference more
//   kInUse  --Release--> kInUse    while references remain; after the last one
//                        kCached   if the prefix cache wants to keep its content, else
//                        kFree
//   kCached --Share-->   kInUse    a prefix hit
//   kCached --Discard--> kFree     an eviction
//
// Any other transition is our own mistake and ends the process. Not thread-safe: only the step loop calls it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace tandem::verifier {

class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);

  int32_t total() const { return static_cast<int32_t>(references_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }
  int32_t cached() const { return cached_; }
  int32_t in_use() const { return in_use_; }

  // A free block with one reference, or nothing. Lately freed blocks come first: their memory is warm.
  std::optional<int32_t> Take();
  void Share(int32_t block);
  // Drops one reference. Returns whether it was the last, whereupon the block is cached if `keep`, else free.
  bool Release(int32_t block, bool keep);
  void Discard(int32_t block);

  int32_t references(int32_t block) const;
  bool is_cached(int32_t block) const;

  // Counts every block anew and compares with the totals.
  void CheckInvariant() const;

 private:
  static constexpr int32_t kFreeMark = -1;

  std::vector<int32_t> references_;  // by block: kFreeMark = free, 0 = cached, else in use
  std::vector<int32_t> free_;
  int32_t cached_ = 0;
  int32_t in_use_ = 0;
};

}  // namespace tandem::verifier
