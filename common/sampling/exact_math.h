// log and exp with the same bits on every machine, for all numbers that a sampled token hangs on.
//
// The C library picks variants by CPU (with and without FMA) and changes between releases; these use +, -, *,
// / on IEEE numbers only. The inline functions are for sources of this library alone: it is compiled with
// -ffp-contract=off, without which a compiler may fuse a*b+c on some machines.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem::sampling {

// Natural logarithm of a positive, normal, finite x; error below 1 ulp.
double ExactLog(double x);

// e^x for x <= 0; error below 1 ulp while the result is normal. Below x = -708 and for -inf: 0.
double ExactExp(double x);

// e^x in f32 for x <= 0; relative error below 2^-22. Below x = -87 and for -inf: 0. Exactly 1 at 0. Written
// without branches, so that loops over it are vectorised; each element's bits are the same either way.
inline float ExactExpF(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;    // 9 bits: n * kLn2High is exact for |n| < 2^15
  constexpr float kLn2Low = -2.12194440e-4f;  // ln 2 - kLn2High
  constexpr float kRound = 12582912.0f;       // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= 0.35
  // Taylor's series: the first term left out, r^8 / 8!, is below 6e-9.
  float poly = 1.0f / 5040.0f;
  poly = poly * r + 1.0f / 720.0f;
  poly = poly * r + 1.0f / 120.0f;
  poly = poly * r + 1.0f / 24.0f;
  poly = poly * r + 1.0f / 6.0f;
  poly = poly * r + 0.5f;
  poly = poly * r + 1.0f;
  poly = poly * r + 1.0f;
  // The low bits of `shifted` hold n >= -126; 2^n as a float.
  const uint32_t power = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  const float value = poly * std::bit_cast<float>(power);
  return x < -87.0f ? 0.0f : value;
}

}  // namespace tandem::sampling
