// Dot products of one block of 32 columns in 8-bit integers: a register of rows against one token. Per-target
// header; everything here is exact, so targets may differ in how.
//
//   BlockWeights<type>   the block's quants of kRegLanes rows, decoded once for all tokens
//   DotBlock(w, x, sum)  sum[row] + sum_c q[row][c] * x[c], x 32 int8 within [-127, 127], as a vector of
//   int32;
//                        q as stored minus SubtractedOffset<type>, the rest of the offset being the caller's
#if defined(TANDEM_KERNELS_DOT_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_DOT_INL_H
#undef TANDEM_KERNELS_DOT_INL_H
#else
#define TANDEM_KERNELS_DOT_INL_H
#endif

#include "common/kernels/cpu/lanes-inl.h"
#include "common/kernels/cpu/panel.h"

// Highway 1.0.3's AVX3_DL names AVX-VNNI where it tests the machine for AVX512-VNNI; dot products need the
// latter.
#undef TANDEM_BEFORE_DOT_NAMESPACE
#if HWY_TARGET == HWY_AVX3_DL
#define TANDEM_BEFORE_DOT_NAMESPACE()                                                            \
  HWY_PUSH_ATTRIBUTES(                                                                           \
      HWY_TARGET_STR_AVX3                                                                        \
      ",vpclmulqdq,avx512vbmi,avx512vbmi2,vaes,avxvnni,avx512bitalg,avx512vpopcntdq,avx512vnni") \
  static_assert(true)
#else
#define TANDEM_BEFORE_DOT_NAMESPACE() HWY_BEFORE_NAMESPACE()
#endif

TANDEM_BEFORE_DOT_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

#if HWY_TARGET != TANDEM_SCALAR_TARGET

using I32Tag = hn::RebindToSigned<F32Tag>;
using I32Reg = hn::Vec<I32Tag>;
using U8Tag = hn::Repartition<uint8_t, F32Tag>;
using U8Reg = hn::Vec<U8Tag>;

// Four neighbouring activations in every 32-bit lane.
HWY_INLINE I32Reg BroadcastWord(const int8_t* x) {
  int32_t word;
  std::memcpy(&word, x, sizeof word);
  return hn::Set(I32Tag(), word);
}

// Stored quants, a register per group of 4 columns; nibbles spread to bytes.
template <WeightType type>
HWY_INLINE void LoadQuants(const std::byte* block, int reg, U8Reg (&g)[kGroupsPerBlock]) {
  const U8Tag d8;
  const auto* const p = reinterpret_cast<const uint8_t*>(block) + reg * kRegLanes * 4;
  if constexpr (type == WeightType::kInt8) {
#pragma GCC unroll 8
    for (int i = 0; i < kGroupsPerBlock; ++i) g[i] = hn::LoadU(d8, p + i * kLanes * 4);
  } else {
    const hn::Repartition<uint16_t, U8Tag> d16;
    const U8Reg mask = hn::Set(d8, 15);
#pragma GCC unroll 4
    for (int i = 0; i < kGroupsPerBlock / 2; ++i) {
      const U8Reg both = hn::LoadU(d8, p + i * kLanes * 4);
      g[i] = hn::And(both, mask);
      g[i + kGroupsPerBlock / 2] = hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, both))), mask);
    }
  }
}

#if HWY_TARGET == HWY_AVX3_DL

template <WeightType type>
inline constexpr int kSubtractedOffset = 0;

template <WeightType type>
struct BlockWeights {
  U8Reg g[kGroupsPerBlock];
  HWY_INLINE void Load(const std::byte* block, int reg) { LoadQuants<type>(block, reg, g); }
};

template <WeightType type>
HWY_INLINE I32Reg DotBlock(const BlockWeights<type>& w, const int8_t* x, I32Reg sum) {
  __m512i even = sum.raw, odd = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int i = 0; i < kGroupsPerBlock; i += 2) {
    even = _mm512_dpbusd_epi32(even, w.g[i].raw, BroadcastWord(x + i * 4).raw);
    odd = _mm512_dpbusd_epi32(odd, w.g[i + 1].raw, BroadcastWord(x + i * 4 + 4).raw);
  }
  return I32Reg{_mm512_add_epi32(even, odd)};
}

#elif HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3

// Sums of two products of an unsigned and a signed byte in 16 bits, saturating; and of two of those in 32.
#if HWY_TARGET == HWY_AVX2
HWY_INLINE __m256i MulPairs(__m256i u, __m256i s) { return _mm256_maddubs_epi16(u, s); }
HWY_INLINE __m256i Add16(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
HWY_INLINE __m256i AddPairs(__m256i a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
using SignReg = __m256i;
HWY_INLINE SignReg SignOf(__m256i w) { return w; }
HWY_INLINE __m256i ApplySign(__m256i x, SignReg sign) { return _mm256_sign_epi8(x, sign); }
HWY_INLINE __m256i AbsBytes(__m256i w) { return _mm256_abs_epi8(w); }
#else
HWY_INLINE __m512i MulPairs(__m512i u, __m512i s) { return _mm512_maddubs_epi16(u, s); }
HWY_INLINE __m512i Add16(__m512i a, __m512i b) { return _mm512_add_epi16(a, b); }
HWY_INLINE __m512i AddPairs(__m512i a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
using SignReg = __mmask64;
HWY_INLINE SignReg SignOf(__m512i w) { return _mm512_movepi8_mask(w); }
HWY_INLINE __m512i ApplySign(__m512i x, SignReg sign) {
  return _mm512_mask_sub_epi8(x, sign, _mm512_setzero_si512(), x);
}
HWY_INLINE __m512i AbsBytes(__m512i w) { return _mm512_abs_epi8(w); }
#endif

template <WeightType type>
inline constexpr int kSubtractedOffset = type == WeightType::kInt8 ? kInt8Offset : 0;

// int8: the pair product |w| * (sign(w) x) is at most 2 * 128 * 127 and does not saturate (w may be -128, x
// not).
template <WeightType type>
struct BlockWeights {
  U8Reg magnitude[kGroupsPerBlock];
  SignReg sign[kGroupsPerBlock];
  HWY_INLINE void Load(const std::byte* block, int reg) {
    const U8Tag d8;
    LoadQuants<type>(block, reg, magnitude);
#pragma GCC unroll 8
    for (int i = 0; i < kGroupsPerBlock; ++i) {
      const U8Reg w = hn::Xor(magnitude[i], hn::Set(d8, kInt8Offset));
      sign[i] = SignOf(w.raw);
      magnitude[i] = U8Reg{AbsBytes(w.raw)};
    }
  }
};

template <>
struct BlockWeights<WeightType::kInt4> {
  U8Reg g[kGroupsPerBlock];
  HWY_INLINE void Load(const std::byte* block, int reg) { LoadQuants<WeightType::kInt4>(block, reg, g); }
};

template <WeightType type>
HWY_INLINE I32Reg DotBlock(const BlockWeights<type>& w, const int8_t* x, I32Reg sum) {
  if constexpr (type == WeightType::kInt8) {
#pragma GCC unroll 8
    for (int i = 0; i < kGroupsPerBlock; ++i) {
      const auto signed_x = ApplySign(BroadcastWord(x + i * 4).raw, w.sign[i]);
      sum = hn::Add(sum, I32Reg{AddPairs(MulPairs(w.magnitude[i].raw, signed_x))});
    }
    return sum;
  } else {
    // All 8 groups fit 16 bits: 8 * 2 * 15 * 127 = 30480.
    auto pairs = MulPairs(w.g[0].raw, BroadcastWord(x).raw);
#pragma GCC unroll 8
    for (int i = 1; i < kGroupsPerBlock; ++i)
      pairs = Add16(pairs, MulPairs(w.g[i].raw, BroadcastWord(x + i * 4).raw));
    return hn::Add(sum, I32Reg{AddPairs(pairs)});
  }
}

#else  // NEON

template <WeightType type>
inline constexpr int kSubtractedOffset = type == WeightType::kInt8 ? kInt8Offset : 0;

template <WeightType type>
struct BlockWeights {
  int8x16_t g[kGroupsPerBlock];
  HWY_INLINE void Load(const std::byte* block, int reg) {
    U8Reg stored[kGroupsPerBlock];
    LoadQuants<type>(block, reg, stored);
    const U8Reg flip = hn::Set(U8Tag(), kSubtractedOffset<type>);  // of int8: + 128 modulo 256
#pragma GCC unroll 8
    for (int i = 0; i < kGroupsPerBlock; ++i) g[i] = vreinterpretq_s8_u8(hn::Xor(stored[i], flip).raw);
  }
};

// Widening multiplies; a product is at most 128 * 127 and fits 16 bits.
template <WeightType type>
HWY_INLINE I32Reg DotBlock(const BlockWeights<type>& w, const int8_t* x, I32Reg sum) {
  int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);  // rows 0, 0, 1, 1 and 2, 2, 3, 3
#pragma GCC unroll 8
  for (int i = 0; i < kGroupsPerBlock; ++i) {
    const int8x16_t word = vreinterpretq_s8_s32(BroadcastWord(x + i * 4).raw);
    low = vpadalq_s16(low, vmull_s8(vget_low_s8(w.g[i]), vget_low_s8(word)));
    high = vpadalq_s16(high, vmull_s8(vget_high_s8(w.g[i]), vget_high_s8(word)));
  }
  const int32x4_t rows = vcombine_s32(vpadd_s32(vget_low_s32(low), vget_high_s32(low)),
                                      vpadd_s32(vget_low_s32(high), vget_high_s32(high)));
  return hn::Add(sum, I32Reg(rows));
}

#endif

#endif  // vector targets

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
