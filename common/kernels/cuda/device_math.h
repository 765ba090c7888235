// What several kernels compute with: math.h's exp, conversions of half.h, sums over a block. Only .cu files
// include it.
#pragma once

#include "common/kernels/cpu/math_constants.h"
#include "common/kernels/cuda/language.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

inline constexpr int kWarp = 32;

__device__ __forceinline__ float Infinity() { return __uint_as_float(0x7f800000u); }

// The operations of kernels::Exp (math.h), hence its bits.
__device__ __forceinline__ float Exp(float x) {
  if (x != x) return x;
  if (x < kExpLow) return 0.0f;
  if (x >= kExpHigh) return Infinity();
  const float shifted = fmaf(x, kLog2E, kRoundShift);
  const float n = shifted - kRoundShift;
  const float r = fmaf(-n, kLn2Low, fmaf(-n, kLn2High, x));
  float p = kExp6;
  p = fmaf(p, r, kExp5);
  p = fmaf(p, r, kExp4);
  p = fmaf(p, r, kExp3);
  p = fmaf(p, r, kExp2);
  p = fmaf(p, r * r, r) + 1.0f;
  return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

__device__ __forceinline__ float ToFloat(float value) { return value; }
__device__ __forceinline__ float ToFloat(uint16_t bf16) {
  return __uint_as_float(static_cast<uint32_t>(bf16) << 16);
}

// To nearest, ties to even; as BF16FromFloat.
__device__ __forceinline__ uint16_t ToBF16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
__device__ __forceinline__ void Store(float value, float* to) { *to = value; }
__device__ __forceinline__ void Store(float value, uint16_t* to) { *to = ToBF16(value); }

// The sum over the block's threads, the same bits in each: within warps by halves, then warps ascending.
// All threads of the block call it; blockDim.x is a multiple of 32; `sums` has a float for each warp.
__device__ __forceinline__ float BlockSum(float value, float* sums) {
  for (int mask = kWarp / 2; mask >= 1; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
  if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  float sum = 0.0f;
  for (unsigned warp = 0; warp < blockDim.x / kWarp; ++warp) sum += sums[warp];
  return sum;
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
