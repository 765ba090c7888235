// Full KV blocks found again by their content, so that a prompt's known beginning is not computed twice.
//
// A block's content is determined by its 16 tokens and everything before them, within one owner. An entry
// therefore names its parent entry (the block before it; for a first block, the owner), and two contents are
// equal iff parents and tokens are: the hash (xxHash over both) only finds candidates, equality decides.
// Entry numbers are never reused, hence by induction a hit is the same prefix, not merely the same hash.
//
// A block that no sequence references stays cached until its memory is needed; then the least recently used
// goes first. Whoever references a block references its parents too, and sequences release their last block
// first, so an evicted entry never has children.
//
//   std::vector<int32_t> table = cache.Match(owner, tokens, max_length, &parent);   // shares the blocks
//   ... a block becomes full ...
//   block = cache.Insert(owner, &parent, tokens_of_block, block);
//   ... the end ...
//   cache.Release(table);
//
// Without `enabled` nothing is ever found or kept. Not thread-safe: only the step loop calls it. Borrows the
// pool, of which it is the only user. Allocates only when its index grows (reserved at construction).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "common/kernels/kv_cache.h"
#include "verifier/engine/block_pool.h"

namespace tandem::verifier {

// The entry a sequence's next full block will have as its parent. The sequence holds a reference to the
// entry's block, so it stays where it is.
struct PrefixEntry {
  uint64_t number = 0;  // 0 = none yet
  int32_t block = -1;
};

class PrefixCache {
 public:
  PrefixCache(BlockPool& pool, bool enabled);
  PrefixCache(const PrefixCache&) = delete;

  // Only blocks of which this holds are found; whoever computes the content anew gets the known block back at
  // Insert. Without it all are.
  void SetUsable(std::function<bool(int32_t block)> usable) { usable_ = std::move(usable); }

  // The longest run of full cached blocks at the start of `tokens` that ends at or before `max_length`
  // tokens, shared with the caller. `*last` is the entry of the last one, none if there is no such block.
  std::vector<int32_t> Match(std::string_view owner, std::span<const int32_t> tokens, int32_t max_length,
                             PrefixEntry* last);
  // The same without sharing anything: how many blocks would be found, and how many of them no one
  // references (they count as evictable until they are matched).
  struct Found {
    int32_t blocks = 0;
    int32_t unreferenced = 0;
  };
  Found Peek(std::string_view owner, std::span<const int32_t> tokens, int32_t max_length) const;
  // One more block behind `*parent`, if cached: shared with the caller, and *parent moves on to it; else -1.
  int32_t MatchNext(std::string_view owner, PrefixEntry* parent, std::span<const int32_t> block_tokens);

  // Registers `block`, full and computed, behind *parent, and moves *parent on to it. If the same content is
  // registered already, the caller gets that block instead of its own, which is released: both hold the same
  // bits, since what is computed for a position depends on its prefix alone.
  int32_t Insert(std::string_view owner, PrefixEntry* parent, std::span<const int32_t> block_tokens,
                 int32_t block);

  // A block for new content: a free one, else the least recently used cached one; -1 if all are in use.
  int32_t Take();
  int32_t available() const { return pool_.free() + pool_.cached(); }

  // Drops one reference of each block, the last block first.
  void Release(std::span<const int32_t> blocks);

  // The hash that finds candidates, to be seen by the test in which two contents collide.
  static uint64_t HashOf(const PrefixEntry& parent, std::string_view owner,
                         std::span<const int32_t> block_tokens) {
    return Hash{nullptr}(MakeProbe(parent, owner, block_tokens));
  }

 private:
  static constexpr int kBlock = kernels::kKvBlockPositions;
  static constexpr int32_t kNone = -1;

  // By block index; `number` 0 = not registered.
  struct Entry {
    uint64_t number = 0;
    PrefixEntry parent;
    int32_t num_children = 0;
    int32_t older = kNone, newer = kNone;  // neighbours in the list of unreferenced entries
    std::string owner;                     // of first blocks only
    std::array<int32_t, kBlock> tokens{};
  };
  struct Probe {
    uint64_t parent;
    std::string_view owner;  // empty behind a parent
    std::span<const int32_t> tokens;
  };
  struct Hash {
    using is_transparent = void;
    const std::vector<Entry>* entries;
    size_t operator()(const Probe& probe) const;
    size_t operator()(int32_t block) const;
  };
  struct Equal {
    using is_transparent = void;
    const std::vector<Entry>* entries;
    bool operator()(const Probe& a, const Probe& b) const;
    bool operator()(int32_t a, int32_t b) const { return a == b; }
    bool operator()(const Probe& a, int32_t b) const { return (*this)(a, ProbeOf(b)); }
    bool operator()(int32_t a, const Probe& b) const { return (*this)(ProbeOf(a), b); }
    Probe ProbeOf(int32_t block) const;
  };

  static Probe MakeProbe(const PrefixEntry& parent, std::string_view owner, std::span<const int32_t> tokens);
  int32_t Find(const Probe& probe) const;
  void Share(int32_t block);
  void ReleaseOne(int32_t block);
  void Evict(int32_t block);
  void Append(int32_t block);  // as the most recently used
  void Unlink(int32_t block);

  BlockPool& pool_;
  const bool enabled_;
  std::function<bool(int32_t)> usable_;
  std::vector<Entry> entries_;
  absl::flat_hash_set<int32_t, Hash, Equal> index_;
  uint64_t last_number_ = 0;
  int32_t oldest_ = kNone, newest_ = kNone;
};

}  // namespace tandem::verifier
