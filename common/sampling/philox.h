// The counter-based generator Philox4x32-10 (Salmon et al., SC 2011; Random123) and the noise derived from
// it.
#pragma once

#include <array>
#include <cstdint>

namespace tandem::sampling {

using PhiloxBlock = std::array<uint32_t, 4>;

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9, kPhiloxWeyl1 = 0xBB67AE85;

PhiloxBlock Philox4x32_10(const PhiloxBlock& counter, const std::array<uint32_t, 2>& key);

// What a draw is used for; part of the counter, so that streams never share noise.
enum class NoiseStream : uint32_t {
  kCoupled = 0,     // shared by target and drafter
  kAcceptance = 1,  // the uniform of the rejection rule
  kResidual = 2,    // residual or bonus token in rejection mode
  kDrafter = 3,     // the drafter's own draws in rejection mode
};

// Counter and key for token id v at absolute index i of a sequence with seed s in stream t:
// key = (low s, high s), counter = (v / 4, low i, high i, t), word v % 4.
// u = ((word >> 9) + 0.5) * 2^-23, exact in float32, never 0 or 1.
float Uniform(uint64_t seed, uint64_t index, uint32_t tag, uint32_t token);
float UniformOfWord(uint32_t word);
// g = -log(-log(u)) computed in double (exact_math.h: the same bits on every machine) and rounded: standard
// Gumbel noise, -2.8116 <= g <= 16.6356.
float GumbelOfUniform(float u);
float Gumbel(uint64_t seed, uint64_t index, uint32_t tag, uint32_t token);

// The largest g minus the smallest: a token whose score lies further below the best can never win.
inline constexpr float kGumbelMin = -2.8116f;
inline constexpr float kGumbelMax = 16.6356f;
inline constexpr float kGumbelRange = 19.45f;

}  // namespace tandem::sampling
