// Which KV blocks hold drafters' contexts: reference counts, and which full block already holds a given
// stretch of text, so that sequences with equal beginnings share memory and work.
//
//   kFree  --Take-->  one reference  --Share, FindShared-->  more  --Release-->  fewer, at last kFree
//
// A published block is found by its chain hash: of the stream, of every token up to the block's end and of
// the one behind, on which the block's last row may depend. It must not be written; Withdraw it first, which
// works while nobody shares it. A block that is freed is withdrawn: nothing is cached beyond its last user.
// Hashes are 128 bits of XXH3 and tokens are not compared: equal hashes by accident do not happen, and
// by malice would cost acceptance within one verifier's stream, never text.
//
// Not thread-safe: only the engine calls it. A broken rule is our own mistake and ends the process.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "common/kernels/kv_cache.h"

namespace tandem::drafter {

struct ChainHash {
  uint64_t low = 0, high = 0;
  auto operator<=>(const ChainHash&) const = default;
};
ChainHash ExtendChain(const ChainHash& chain, std::span<const int32_t> tokens);

class ContextBlocks {
 public:
  // Blocks that hold so many positions.
  static size_t For(int32_t positions) {
    constexpr size_t kPerBlock = kernels::kKvBlockPositions;
    return (static_cast<size_t>(positions) + kPerBlock - 1) / kPerBlock;
  }

  explicit ContextBlocks(int32_t num_blocks);

  int32_t total() const { return static_cast<int32_t>(references_.size()); }
  int32_t free() const { return static_cast<int32_t>(free_.size()); }

  // One reference, or nothing. Lately freed blocks come first: their memory is warm.
  std::optional<int32_t> Take();
  void Release(int32_t block);

  // The published block of this text, with one reference more.
  std::optional<int32_t> FindShared(const ChainHash& chain);
  // Requires that none is published under it.
  void Publish(int32_t block, const ChainHash& chain);
  // Whether a write would be seen by nobody but its one user.
  bool IsExclusive(int32_t block) const { return references_[block] == 1 && !published_[block]; }
  int32_t references(int32_t block) const { return references_[block]; }
  void Withdraw(int32_t block);

 private:
  std::vector<int32_t> references_;  // by block; 0 = free
  std::vector<std::optional<ChainHash>> published_;
  std::map<ChainHash, int32_t> by_chain_;
  std::vector<int32_t> free_;
};

}  // namespace tandem::drafter
