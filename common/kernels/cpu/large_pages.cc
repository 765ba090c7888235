#include "common/kernels/cpu/large_pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace tandem::kernels {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kLargePage = 2 << 20;

int64_t RoundUp(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

std::byte* AllocateInLargePages(int64_t bytes) {
  if (bytes < kLargePage) {
    return static_cast<std::byte*>(
        std::aligned_alloc(kAlignment, RoundUp(std::max<int64_t>(bytes, 1), kAlignment)));
  }
  if (bytes > std::numeric_limits<int64_t>::max() - kLargePage) return nullptr;
  const int64_t size = RoundUp(bytes, kLargePage);
  void* const memory = std::aligned_alloc(kLargePage, size);
  // Mere advice: small pages do as well, only slower.
  if (memory != nullptr) madvise(memory, size, MADV_HUGEPAGE);
  return static_cast<std::byte*>(memory);
}

}  // namespace tandem::kernels
