#include "common/kernels/weight_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

namespace tandem::kernels {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kLargePage = 2 << 20;
// Pages that nobody writes take no memory.
constexpr int64_t kChunkBytes = 64 << 20;

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

std::shared_ptr<std::byte> NewChunk(int64_t bytes) {
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(kLargePage, bytes));
  if (memory == nullptr) return nullptr;
  // Advice: small pages do as well, only slower.
  madvise(memory, bytes, MADV_HUGEPAGE);
  return {memory, [](std::byte* p) { std::free(p); }};
}

}  // namespace

std::shared_ptr<std::byte> WeightMemory::Allocate(int64_t bytes) {
  bytes = RoundUp(std::max<int64_t>(bytes, 1), kAlignment);
  if (chunk_ == nullptr || bytes > size_ - used_) {
    const int64_t size = RoundUp(std::max(bytes, kChunkBytes), kLargePage);
    std::shared_ptr<std::byte> chunk = NewChunk(size);
    if (chunk == nullptr) return nullptr;
    chunk_ = std::move(chunk);
    size_ = size;
    used_ = 0;
  }
  std::byte* const begin = chunk_.get() + used_;
  used_ += bytes;
  return {chunk_, begin};
}

}  // namespace tandem::kernels
