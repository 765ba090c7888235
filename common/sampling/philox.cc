#include "common/sampling/philox.h"

#include "common/sampling/exact_math.h"

namespace tandem::sampling {

PhiloxBlock Philox4x32_10(const PhiloxBlock& counter, const std::array<uint32_t, 2>& key) {
  PhiloxBlock c = counter;
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * c[0];
    const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(product0)};
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return c;
}

float UniformOfWord(uint32_t word) { return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f; }

float Uniform(uint64_t seed, uint64_t index, uint32_t tag, uint32_t token) {
  const PhiloxBlock counter = {token / 4, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                               tag};
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  return UniformOfWord(Philox4x32_10(counter, key)[token % 4]);
}

float GumbelOfUniform(float u) { return static_cast<float>(-ExactLog(-ExactLog(static_cast<double>(u)))); }

float Gumbel(uint64_t seed, uint64_t index, uint32_t tag, uint32_t token) {
  return GumbelOfUniform(Uniform(seed, index, tag, token));
}

}  // namespace tandem::sampling
