// The Philox words of 32 consecutive token ids at once, vectorised for the CPU at hand.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tandem::sampling {

inline constexpr size_t kPhiloxBatch = 32;  // tokens, 8 blocks

// words[i] = Philox word of token id first_token + i, with key and counter as philox.h has them; first_token
// is a multiple of 4. Returns the largest word.
uint32_t PhiloxWords(uint64_t seed, uint64_t index, uint32_t tag, uint32_t first_token,
                     std::span<uint32_t, kPhiloxBatch> words);

}  // namespace tandem::sampling
