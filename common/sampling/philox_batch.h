// Many Philox blocks of one position at once: the words of consecutive token ids, vectorised for the CPU at
// hand.
#pragma once

#include <cstdint>
#include <span>

namespace tandem::sampling {

// words[i] = Philox word of token id first_token + i, with key and counter as philox.h has them. first_token
// and words.size() are multiples of 32.
void PhiloxWords(uint64_t seed, uint64_t index, uint32_t tag, uint32_t first_token,
                 std::span<uint32_t> words);

}  // namespace tandem::sampling
