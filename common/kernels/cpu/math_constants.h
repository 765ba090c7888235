// Constants of exp and GELU, shared by the plain and the vector version: e^r = 1 + r + r^2 (kExp2 + kExp3 r +
// ...) on |r| <= ln(2) / 2, least-squares fit of e^r's rest weighted by r^2; relative error of the polynomial
// 2^-27.4.
#pragma once

namespace tandem::kernels {

inline constexpr float kExpLow = -87.33f;  // below, the result would be subnormal: 0
inline constexpr float kExpHigh = 88.72f;  // from here infinity
inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kRoundShift = 0x1.8p+23f;
// ln 2 in two parts; the first has 15 bits, so that n * kLn2High is exact.
inline constexpr float kLn2High = 0x1.62e4p-1f;
inline constexpr float kLn2Low = 0x1.7f7d1cp-20f;
inline constexpr float kExp2 = 0x1p-1f;
inline constexpr float kExp3 = 0x1.55548ap-3f;
inline constexpr float kExp4 = 0x1.55547ap-5f;
inline constexpr float kExp5 = 0x1.123ebep-7f;
inline constexpr float kExp6 = 0x1.6d9a92p-10f;

// tanh-GELU: a * (1 + tanh(c (a + 0.044715 a^3))) / 2 with c = sqrt(2 / pi) is a / (1 + e^t),
// t = -2 c a - 2 c 0.044715 a^3.
inline constexpr float kGeluLinear = -1.5957691216057308f;  // -2 c
inline constexpr float kGeluCubic = -0.07135481282553518f;  // -2 c 0.044715

}  // namespace tandem::kernels
