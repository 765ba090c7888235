#include "common/kernels/weight_memory.h"

#include <algorithm>
#include <cstdlib>

#include "common/kernels/cpu/large_pages.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kChunkBytes = 64 << 20;

}  // namespace

std::shared_ptr<std::byte> WeightMemory::Allocate(int64_t bytes) {
  bytes = (std::max<int64_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  if (chunk_ == nullptr || bytes > size_ - used_) {
    const int64_t size = std::max(bytes, kChunkBytes);
    std::byte* const memory = AllocateInLargePages(size);
    if (memory == nullptr) return nullptr;
    chunk_ = {memory, [](std::byte* p) { std::free(p); }};
    size_ = size;
    used_ = 0;
  }
  std::byte* const begin = chunk_.get() + used_;
  used_ += bytes;
  return {chunk_, begin};
}

}  // namespace tandem::kernels
