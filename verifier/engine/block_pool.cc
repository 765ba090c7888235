#include "verifier/engine/block_pool.h"

#include <algorithm>

#include "common/base/status.h"

namespace tandem::verifier {

BlockPool::BlockPool(int32_t num_blocks) {
  TANDEM_CHECK(num_blocks > 0);
  references_.assign(num_blocks, kFreeMark);
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

std::optional<int32_t> BlockPool::Take() {
  if (free_.empty()) return std::nullopt;
  const int32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  ++in_use_;
  return block;
}

void BlockPool::Share(int32_t block) {
  TANDEM_CHECK(references_[block] != kFreeMark);
  if (references_[block]++ > 0) return;
  --cached_;
  ++in_use_;
}

bool BlockPool::Release(int32_t block, bool keep) {
  TANDEM_CHECK(references_[block] > 0);
  if (--references_[block] > 0) return false;
  --in_use_;
  if (keep) {
    ++cached_;
  } else {
    references_[block] = kFreeMark;
    free_.push_back(block);
  }
  return true;
}

void BlockPool::Discard(int32_t block) {
  TANDEM_CHECK(references_[block] == 0);
  references_[block] = kFreeMark;
  --cached_;
  free_.push_back(block);
}

int32_t BlockPool::references(int32_t block) const { return std::max(references_[block], 0); }
bool BlockPool::is_cached(int32_t block) const { return references_[block] == 0; }

void BlockPool::CheckInvariant() const {
  int32_t num_free = 0, num_cached = 0, num_in_use = 0;
  for (const int32_t references : references_) {
    num_free += references == kFreeMark;
    num_cached += references == 0;
    num_in_use += references > 0;
  }
  TANDEM_CHECK(num_free == free() && num_cached == cached_ && num_in_use == in_use_);
  TANDEM_CHECK(free() + cached_ + in_use_ == total());
}

}  // namespace tandem::verifier
