#include "common/sampling/exact_math.h"

namespace tandem::sampling {
namespace {

// ln 2 in two parts; the high one has 28 significant bits, so that k * kLn2High is exact for every exponent
// k.
constexpr double kLn2High = 0x1.62e42fep-1;
constexpr double kLn2Low = 0x1.f473de6af278fp-30;

}  // namespace

double ExactLog(double x) {
  // x = 2^k * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdu;
  const uint64_t offset = bits - kSqrtHalf;
  const int64_t k = static_cast<int64_t>(offset) >> 52;
  const double f = std::bit_cast<double>(bits - (static_cast<uint64_t>(k) << 52)) - 1.0;

  // log(1+f) = 2 atanh(s) = 2s + s*R, s = f / (2+f), R = 2 (s^2/3 + s^4/5 + ...). Since 2s = f - (1-s) f^2/2,
  // the sum can start from f, which is exact, so that the rounding of s only enters through small terms.
  const double s = f / (2.0 + f);
  const double w = s * s;  // <= 0.0295: the term after 1/25 adds less than 2^-66
  double series = 2.0 / 25.0;
  series = series * w + 2.0 / 23.0;
  series = series * w + 2.0 / 21.0;
  series = series * w + 2.0 / 19.0;
  series = series * w + 2.0 / 17.0;
  series = series * w + 2.0 / 15.0;
  series = series * w + 2.0 / 13.0;
  series = series * w + 2.0 / 11.0;
  series = series * w + 2.0 / 9.0;
  series = series * w + 2.0 / 7.0;
  series = series * w + 2.0 / 5.0;
  series = series * w + 2.0 / 3.0;
  const double rest = series * w;
  const double half_square = 0.5 * f * f;
  const double correction = s * (half_square + rest);
  const double power = static_cast<double>(k);
  return power * kLn2High - ((half_square - (correction + power * kLn2Low)) - f);
}

double ExactExp(double x) {
  if (!(x >= -708.0)) return 0.0;
  constexpr double kLog2E = 0x1.71547652b82fep+0;
  constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer
  const double shifted = x * kLog2E + kRound;
  const double n = shifted - kRound;
  const double high = x - n * kLn2High;  // exact
  const double low = n * kLn2Low;
  const double r = high - low;  // |r| <= 0.347
  const double r_error = (high - r) - low;
  // e^r - 1 - r by Taylor's series; the first term left out, r^15 / 15!, is below 2^-62.
  double poly = 1.0 / 87178291200.0;
  poly = poly * r + 1.0 / 6227020800.0;
  poly = poly * r + 1.0 / 479001600.0;
  poly = poly * r + 1.0 / 39916800.0;
  poly = poly * r + 1.0 / 3628800.0;
  poly = poly * r + 1.0 / 362880.0;
  poly = poly * r + 1.0 / 40320.0;
  poly = poly * r + 1.0 / 5040.0;
  poly = poly * r + 1.0 / 720.0;
  poly = poly * r + 1.0 / 120.0;
  poly = poly * r + 1.0 / 24.0;
  poly = poly * r + 1.0 / 6.0;
  poly = poly * r + 0.5;
  const double value = 1.0 + (r + (r * r * poly + r_error));
  const uint64_t power = (std::bit_cast<uint64_t>(shifted) + 1023u) << 52;
  return value * std::bit_cast<double>(power);
}

}  // namespace tandem::sampling
