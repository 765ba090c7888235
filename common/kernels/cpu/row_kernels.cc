#include "common/kernels/cpu/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/kernels/cpu/targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/cpu/row_kernels.cc"
#include "hwy/foreach_target.h"
//
#include "common/kernels/cpu/lanes-inl.h"
#include "common/kernels/cpu/math-inl.h"
#include "common/kernels/matrix.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {
namespace {

// n <= 16 floats, the other lanes 0.
HWY_INLINE F32x16 LoadN(const float* p, int64_t n) {
  if (n >= kLanes) return Load(p);
  alignas(64) float lanes[kLanes] = {};
  std::copy(p, p + n, lanes);
  return Load(lanes);
}

HWY_INLINE void StoreN(const F32x16& v, float* p, int64_t n) {
  if (n >= kLanes) {
    Store(v, p);
    return;
  }
  alignas(64) float lanes[kLanes];
  Store(v, lanes);
  std::copy(lanes, lanes + n, p);
}

void RmsNormImpl(const float* x, const float* w, float eps, int64_t n, float* y) {
  F32x16 squares = Set(0.0f);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F32x16 v = Load(x + i);
    squares = MulAdd(v, v, squares);
  }
  if (i < n) {
    const F32x16 v = LoadN(x + i, n - i);
    squares = MulAdd(v, v, squares);  // adding 0 * 0 changes no sum of squares
  }
  const F32x16 r = Set(1.0f / std::sqrt(TreeSum(squares) / static_cast<float>(n) + eps));
  for (i = 0; i < n; i += kLanes) StoreN(Mul(Mul(LoadN(x + i, n - i), r), LoadN(w + i, n - i)), y + i, n - i);
}

void RopeImpl(float* x, const float* cos, const float* sin, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32x16 a = LoadN(x + i, n - i), b = LoadN(x + n + i, n - i);
    const F32x16 c = LoadN(cos + i, n - i), s = LoadN(sin + i, n - i);
    StoreN(MulAdd(a, c, Neg(Mul(b, s))), x + i, n - i);
    StoreN(MulAdd(b, c, Mul(a, s)), x + n + i, n - i);
  }
}

void AddImpl(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) StoreN(Add(LoadN(x + i, n - i), LoadN(y + i, n - i)), x + i, n - i);
}

void ScaleImpl(float* x, float factor, int64_t n) {
  const F32x16 f = Set(factor);
  for (int64_t i = 0; i < n; i += kLanes) StoreN(Mul(LoadN(x + i, n - i), f), x + i, n - i);
}

void SoftCapImpl(float* x, float cap, int64_t n) {
  const F32x16 c = Set(cap), one = Set(1.0f), two = Set(2.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32x16 e = ExpLanes(Mul(two, Div(LoadN(x + i, n - i), c)));
    StoreN(Mul(c, Sub(one, Div(two, Add(one, e)))), x + i, n - i);
  }
}

void SwiGluImpl(const float* gate, const float* up, int64_t n, float* out) {
  const F32x16 one = Set(1.0f);
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32x16 a = LoadN(gate + i, n - i);
    const F32x16 silu = Div(a, Add(one, ExpLanes(Neg(a))));
    StoreN(Mul(silu, LoadN(up + i, n - i)), out + i, n - i);
  }
}

void GeGluImpl(const float* gate, const float* up, int64_t n, float* out) {
  const F32x16 one = Set(1.0f), cubic = Set(kGeluCubic), linear = Set(kGeluLinear);
  for (int64_t i = 0; i < n; i += kLanes) {
    const F32x16 a = LoadN(gate + i, n - i);
    const F32x16 t = Mul(a, MulAdd(Mul(a, a), cubic, linear));
    const F32x16 gelu = Div(a, Add(one, ExpLanes(t)));
    StoreN(Mul(gelu, LoadN(up + i, n - i)), out + i, n - i);
  }
}

void QuantiseImpl(const float* x, int64_t blocks, int8_t* q, float* scales, float* sums,
                  int32_t* negated_sums) {
  static_assert(kBlockColumns == 2 * kLanes);
  const F32x16 zero = Set(0.0f);
  for (int64_t b = 0; b < blocks; ++b, x += kBlockColumns, q += kBlockColumns) {
    const F32x16 low = Load(x), high = Load(x + kLanes);
    // NaN if and only if some value is not finite.
    const float check = TreeSum(MulAdd(low, zero, Mul(high, zero)));
    const float scale = TreeMax(Max(Abs(low), Abs(high))) / 127.0f;
    if (check != check || scale < std::numeric_limits<float>::min()) {
      std::fill(q, q + kBlockColumns, int8_t{0});
      scales[b] = check != check ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
      sums[b] = scales[b] * 0.0f;
      negated_sums[b] = 0;
      continue;
    }
    const F32x16 divisor = Set(scale);
    const F32x16 q_low = Round(Div(low, divisor)), q_high = Round(Div(high, divisor));
    StoreInt8(q_low, q);
    StoreInt8(q_high, q + kLanes);
    const float sum = TreeSum(Add(q_low, q_high));  // exact: small integers
    scales[b] = scale;
    sums[b] = scale * sum;
    negated_sums[b] = -static_cast<int32_t>(sum);
  }
}

}  // namespace
}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(RmsNormImpl);
HWY_EXPORT(RopeImpl);
HWY_EXPORT(AddImpl);
HWY_EXPORT(ScaleImpl);
HWY_EXPORT(SoftCapImpl);
HWY_EXPORT(SwiGluImpl);
HWY_EXPORT(GeGluImpl);
HWY_EXPORT(QuantiseImpl);

void RmsNormRow(const float* x, const float* w, float eps, int64_t n, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormImpl)(x, w, eps, n, y);
}
void RopeHead(float* x, const float* cos, const float* sin, int64_t n) {
  HWY_DYNAMIC_DISPATCH(RopeImpl)(x, cos, sin, n);
}
void AddRow(float* x, const float* y, int64_t n) { HWY_DYNAMIC_DISPATCH(AddImpl)(x, y, n); }
void ScaleRow(float* x, float factor, int64_t n) { HWY_DYNAMIC_DISPATCH(ScaleImpl)(x, factor, n); }
void SoftCapRow(float* x, float cap, int64_t n) { HWY_DYNAMIC_DISPATCH(SoftCapImpl)(x, cap, n); }
void SwiGluRow(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SwiGluImpl)(gate, up, n, out);
}
void GeGluRow(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(GeGluImpl)(gate, up, n, out);
}
void QuantiseRow(const float* x, int64_t blocks, int8_t* q, float* scales, float* sums,
                 int32_t* negated_sums) {
  HWY_DYNAMIC_DISPATCH(QuantiseImpl)(x, blocks, q, scales, sums, negated_sums);
}

}  // namespace tandem::kernels
#endif
