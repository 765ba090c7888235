// exp on 16 lanes: the operations of Exp (math.h), lane by lane. Per-target header.
#if defined(TANDEM_KERNELS_MATH_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_KERNELS_MATH_INL_H
#undef TANDEM_KERNELS_MATH_INL_H
#else
#define TANDEM_KERNELS_MATH_INL_H
#endif

#include <limits>

#include "common/kernels/cpu/lanes-inl.h"
#include "common/kernels/cpu/math_constants.h"
#include "common/kernels/math.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

#if HWY_TARGET == TANDEM_SCALAR_TARGET

inline F32x16 ExpLanes(const F32x16& x) {
  F32x16 out;
  for (int i = 0; i < kLanes; ++i) out.lane[i] = Exp(x.lane[i]);
  return out;
}

#else

HWY_INLINE F32Reg ExpReg(F32Reg x) {
  const F32Tag d;
  const hn::RebindToSigned<F32Tag> di;
  const F32Reg shift = hn::Set(d, kRoundShift);
  const F32Reg shifted = hn::MulAdd(x, hn::Set(d, kLog2E), shift);
  const F32Reg n = hn::Sub(shifted, shift);
  F32Reg r = hn::NegMulAdd(n, hn::Set(d, kLn2High), x);
  r = hn::NegMulAdd(n, hn::Set(d, kLn2Low), r);
  F32Reg p = hn::MulAdd(hn::Set(d, kExp6), r, hn::Set(d, kExp5));
  p = hn::MulAdd(p, r, hn::Set(d, kExp4));
  p = hn::MulAdd(p, r, hn::Set(d, kExp3));
  p = hn::MulAdd(p, r, hn::Set(d, kExp2));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  const auto bits = hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted)));
  F32Reg result = hn::BitCast(d, bits);
  result = hn::IfThenElse(hn::Lt(x, hn::Set(d, kExpLow)), hn::Zero(d), result);
  result = hn::IfThenElse(hn::Ge(x, hn::Set(d, kExpHigh)), hn::Set(d, std::numeric_limits<float>::infinity()),
                          result);
  return hn::IfThenElse(hn::Eq(x, x), result, x);
}

HWY_INLINE F32x16 ExpLanes(const F32x16& x) { TANDEM_REGWISE(ExpReg(x.reg[i])); }

#endif

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include guard
