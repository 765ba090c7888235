// Sixteen f32 lanes in as many registers as the target needs, or in plain C++ where there are none;
// per-target header (include guard of Highway's kind). Every operation is one correctly rounded IEEE
// operation per lane, so code written with it gives equal bits on all targets.
#if defined(TANDEM_KERNELS_LANES_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_LANES_INL_H
#undef TANDEM_KERNELS_LANES_INL_H
#else
#define TANDEM_KERNELS_LANES_INL_H
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/kernels/half.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

inline constexpr int kLanes = 16;

#if HWY_TARGET == TANDEM_SCALAR_TARGET

inline constexpr int kRegs = 4;  // as register tiles are planned; no registers are meant

struct F32x16 {
  float lane[kLanes];
};

#define TANDEM_LANEWISE(expression)  \
  F32x16 out;                        \
  for (int i = 0; i < kLanes; ++i) { \
    out.lane[i] = (expression);      \
  }                                  \
  return out

inline F32x16 Set(float value) { TANDEM_LANEWISE(value); }
inline F32x16 Load(const float* p) { TANDEM_LANEWISE(p[i]); }
inline F32x16 LoadBF16(const uint16_t* p) { TANDEM_LANEWISE(FloatFromBF16(p[i])); }
inline F32x16 LoadInt8(const int8_t* p) { TANDEM_LANEWISE(static_cast<float>(p[i])); }
inline F32x16 LoadF16(const uint16_t* p) { TANDEM_LANEWISE(FloatFromF16(p[i])); }
// Bits [shift, shift + bits) of each 32-bit word, as a number.
template <int shift, int bits>
inline F32x16 LoadBits(const std::byte* p) {
  uint32_t words[kLanes];
  std::memcpy(words, p, sizeof words);
  TANDEM_LANEWISE(static_cast<float>(words[i] >> shift & ((1u << bits) - 1)));
}
inline void Store(const F32x16& v, float* p) { std::memcpy(p, v.lane, sizeof v.lane); }
inline F32x16 Add(const F32x16& a, const F32x16& b) { TANDEM_LANEWISE(a.lane[i] + b.lane[i]); }
inline F32x16 Sub(const F32x16& a, const F32x16& b) { TANDEM_LANEWISE(a.lane[i] - b.lane[i]); }
inline F32x16 Mul(const F32x16& a, const F32x16& b) { TANDEM_LANEWISE(a.lane[i] * b.lane[i]); }
inline F32x16 Div(const F32x16& a, const F32x16& b) { TANDEM_LANEWISE(a.lane[i] / b.lane[i]); }
inline F32x16 Neg(const F32x16& a) { TANDEM_LANEWISE(-a.lane[i]); }
inline F32x16 Abs(const F32x16& a) { TANDEM_LANEWISE(std::fabs(a.lane[i])); }
inline F32x16 Round(const F32x16& a) { TANDEM_LANEWISE(std::nearbyint(a.lane[i])); }
inline F32x16 Max(const F32x16& a, const F32x16& b) {
  TANDEM_LANEWISE(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]);
}
inline F32x16 MulAdd(const F32x16& a, const F32x16& b, const F32x16& c) {
  TANDEM_LANEWISE(std::fma(a.lane[i], b.lane[i], c.lane[i]));
}
inline F32x16 FirstN(const F32x16& a, int n, float rest) { TANDEM_LANEWISE(i < n ? a.lane[i] : rest); }
inline F32x16 FromN(const F32x16& a, int n, float rest) { TANDEM_LANEWISE(i < n ? rest : a.lane[i]); }
inline void StoreInt8(const F32x16& v, int8_t* p) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<int8_t>(v.lane[i]);
}
#undef TANDEM_LANEWISE

inline float TreeSum(const F32x16& v) {
  F32x16 a = v;
  for (int width = kLanes / 2; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.lane[i] += a.lane[i + width];
  }
  return a.lane[0];
}
inline float TreeMax(const F32x16& v) {
  F32x16 a = v;
  for (int width = kLanes / 2; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.lane[i] = a.lane[i] > a.lane[i + width] ? a.lane[i] : a.lane[i + width];
  }
  return a.lane[0];
}

#else  // vector targets

namespace hn = hwy::HWY_NAMESPACE;

using F32Tag = hn::CappedTag<float, kLanes>;
using F32Reg = hn::Vec<F32Tag>;
inline constexpr int kRegLanes = HWY_MAX_BYTES / 4 < kLanes ? HWY_MAX_BYTES / 4 : kLanes;
inline constexpr int kRegs = kLanes / kRegLanes;

struct F32x16 {
  F32Reg reg[kRegs];
};

// `expression` gives register i of the result.
#define TANDEM_REGWISE(expression)                                                       \
  const F32Tag d;                                                                        \
  (void)d;                                                                               \
  F32x16 out;                                                                            \
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegs; ++i) { out.reg[i] = (expression); } \
  return out

struct AddOp {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
    return hn::Add(a, b);
  }
};
// a > b ? a : b in each lane, also for NaN and for zeros of different sign; MAXPS is just that.
struct MaxOp {
  template <class V>
  HWY_INLINE V operator()(V a, V b) const {
#if HWY_ARCH_X86
    return hn::Max(a, b);
#else
    return hn::IfThenElse(hn::Gt(a, b), a, b);
#endif
  }
};

HWY_INLINE F32x16 Set(float value) { TANDEM_REGWISE(hn::Set(d, value)); }
HWY_INLINE F32x16 Load(const float* p) { TANDEM_REGWISE(hn::LoadU(d, p + i * kRegLanes)); }
template <int shift, int bits>
HWY_INLINE F32x16 LoadBits(const std::byte* p) {
  const hn::RebindToUnsigned<F32Tag> du;
  const hn::RebindToSigned<F32Tag> di;
  const auto* const words = reinterpret_cast<const uint32_t*>(p);
  TANDEM_REGWISE(
      hn::ConvertTo(d, hn::BitCast(di, hn::And(hn::ShiftRight<shift>(hn::LoadU(du, words + i * kRegLanes)),
                                               hn::Set(du, (1u << bits) - 1)))));
}
HWY_INLINE F32x16 LoadBF16(const uint16_t* p) {
  const hn::Rebind<uint16_t, F32Tag> d16;
  const hn::RebindToUnsigned<F32Tag> d32;
  TANDEM_REGWISE(hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, p + i * kRegLanes)))));
}
HWY_INLINE F32x16 LoadInt8(const int8_t* p) {
  const hn::RebindToSigned<F32Tag> di;
  const hn::Rebind<int8_t, F32Tag> d8;
  TANDEM_REGWISE(hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, p + i * kRegLanes))));
}
HWY_INLINE F32x16 LoadF16(const uint16_t* p) {
  const hn::Rebind<uint16_t, F32Tag> d16;
  const hn::Rebind<hwy::float16_t, F32Tag> df16;
  TANDEM_REGWISE(hn::PromoteTo(d, hn::BitCast(df16, hn::LoadU(d16, p + i * kRegLanes))));
}
HWY_INLINE void Store(const F32x16& v, float* p) {
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) hn::StoreU(v.reg[i], F32Tag(), p + i * kRegLanes);
}
HWY_INLINE F32x16 Add(const F32x16& a, const F32x16& b) { TANDEM_REGWISE(hn::Add(a.reg[i], b.reg[i])); }
HWY_INLINE F32x16 Sub(const F32x16& a, const F32x16& b) { TANDEM_REGWISE(hn::Sub(a.reg[i], b.reg[i])); }
HWY_INLINE F32x16 Mul(const F32x16& a, const F32x16& b) { TANDEM_REGWISE(hn::Mul(a.reg[i], b.reg[i])); }
HWY_INLINE F32x16 Div(const F32x16& a, const F32x16& b) { TANDEM_REGWISE(hn::Div(a.reg[i], b.reg[i])); }
HWY_INLINE F32x16 Neg(const F32x16& a) { TANDEM_REGWISE(hn::Neg(a.reg[i])); }
HWY_INLINE F32x16 Abs(const F32x16& a) { TANDEM_REGWISE(hn::Abs(a.reg[i])); }
HWY_INLINE F32x16 Round(const F32x16& a) { TANDEM_REGWISE(hn::Round(a.reg[i])); }
HWY_INLINE F32x16 Max(const F32x16& a, const F32x16& b) { TANDEM_REGWISE(MaxOp()(a.reg[i], b.reg[i])); }
// a * b + c, rounded once.
HWY_INLINE F32x16 MulAdd(const F32x16& a, const F32x16& b, const F32x16& c) {
  TANDEM_REGWISE(hn::MulAdd(a.reg[i], b.reg[i], c.reg[i]));
}
// Lanes below n of a, `rest` in the others (selected, whatever they held).
HWY_INLINE F32x16 FirstN(const F32x16& a, int n, float rest) {
  TANDEM_REGWISE(hn::IfThenElse(
      hn::Lt(hn::Iota(d, static_cast<float>(i * kRegLanes)), hn::Set(d, static_cast<float>(n))), a.reg[i],
      hn::Set(d, rest)));
}
// The same with the lanes from n on.
HWY_INLINE F32x16 FromN(const F32x16& a, int n, float rest) {
  TANDEM_REGWISE(hn::IfThenElse(
      hn::Lt(hn::Iota(d, static_cast<float>(i * kRegLanes)), hn::Set(d, static_cast<float>(n))),
      hn::Set(d, rest), a.reg[i]));
}
// Lanes hold integers within int8.
HWY_INLINE void StoreInt8(const F32x16& v, int8_t* p) {
  const hn::RebindToSigned<F32Tag> di;
  const hn::Rebind<int8_t, F32Tag> d8;
#pragma GCC unroll 4
  for (int i = 0; i < kRegs; ++i) {
    hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(di, v.reg[i])), d8, p + i * kRegLanes);
  }
}

// The lanes that remain after +8 and +4.
template <typename Op>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4> > TreeToFour(const F32x16& v, Op op) {
#if HWY_MAX_BYTES >= 32
  const hn::FixedTag<float, 8> d8;
  const hn::FixedTag<float, 4> d4;
#if HWY_MAX_BYTES >= 64
  const auto eight = op(hn::LowerHalf(d8, v.reg[0]), hn::UpperHalf(d8, v.reg[0]));
#else
  const auto eight = op(v.reg[0], v.reg[1]);
#endif
  return op(hn::LowerHalf(d4, eight), hn::UpperHalf(d4, eight));
#else
  return op(op(v.reg[0], v.reg[2]), op(v.reg[1], v.reg[3]));
#endif
}

// Lane i takes lane i + 8, then + 4, + 2, + 1; the result is lane 0.
template <typename Op>
HWY_INLINE float Tree(const F32x16& v, Op op) {
  auto four = TreeToFour(v, op);
  four = op(four, hn::Shuffle1032(four));  // lanes 2, 3 down
  four = op(four, hn::Shuffle2301(four));  // lane 1 down
  return hn::GetLane(four);
}
HWY_INLINE float TreeSum(const F32x16& v) { return Tree(v, AddOp()); }
HWY_INLINE float TreeMax(const F32x16& v) { return Tree(v, MaxOp()); }

#endif  // vector targets

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
