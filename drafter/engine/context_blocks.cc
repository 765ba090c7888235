#include "drafter/engine/context_blocks.h"

#include <xxhash.h>

#include "common/base/status.h"

namespace tandem::drafter {

ChainHash ExtendChain(const ChainHash& chain, std::span<const int32_t> tokens) {
  const XXH128_hash_t seed_of_chain = XXH3_128bits(&chain, sizeof chain);
  XXH128_hash_t hash = XXH3_128bits_withSeed(tokens.data(), tokens.size_bytes(), seed_of_chain.low64);
  hash.high64 ^= seed_of_chain.high64;
  return {hash.low64, hash.high64};
}

ContextBlocks::ContextBlocks(int32_t num_blocks) {
  references_.assign(num_blocks, 0);
  published_.assign(num_blocks, std::nullopt);
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

std::optional<int32_t> ContextBlocks::Take() {
  if (free_.empty()) return std::nullopt;
  const int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

void ContextBlocks::Release(int32_t block) {
  TANDEM_CHECK(references_[block] > 0);
  if (--references_[block] > 0) return;
  if (published_[block]) Withdraw(block);
  free_.push_back(block);
}

std::optional<int32_t> ContextBlocks::FindShared(const ChainHash& chain) {
  const auto found = by_chain_.find(chain);
  if (found == by_chain_.end()) return std::nullopt;
  ++references_[found->second];
  return found->second;
}

void ContextBlocks::Publish(int32_t block, const ChainHash& chain) {
  TANDEM_CHECK(references_[block] > 0 && !published_[block]);
  TANDEM_CHECK(by_chain_.emplace(chain, block).second);
  published_[block] = chain;
}

void ContextBlocks::Withdraw(int32_t block) {
  TANDEM_CHECK(references_[block] <= 1 && published_[block]);
  by_chain_.erase(*published_[block]);
  published_[block].reset();
}

}  // namespace tandem::drafter
