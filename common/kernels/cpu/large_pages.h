// Memory that steps pass over from end to end: weights, KV. There is more of it than the address caches of
// small pages cover.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem::kernels {

// At least `bytes`, aligned to 64, not initialised; in large pages where it is large and the system has them.
// Pages that nobody writes take no memory. Null if there is none. To be given back with std::free.
std::byte* AllocateInLargePages(int64_t bytes);

}  // namespace tandem::kernels
