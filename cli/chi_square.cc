#include "cli/chi_square.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace tandem::cli {
namespace {

constexpr double kPower = 0.9;
constexpr double kMinExpectation = 5;

// Q(a, x) = Gamma(a, x) / Gamma(a): the series for the lower part where it converges fast, else Lentz's
// continued fraction.
double UpperGamma(double a, double x) {
  if (x <= 0) return 1;
  const double scale = std::exp(a * std::log(x) - x - std::lgamma(a));
  if (x < a + 1) {
    double term = 1 / a, sum = term;
    for (double n = a + 1; term > sum * 1e-16; ++n) sum += term *= x / n;
    return 1 - scale * sum;
  }
  const double tiny = std::numeric_limits<double>::min() / std::numeric_limits<double>::epsilon();
  double b = x + 1 - a, c = 1 / tiny, d = 1 / b, h = d;
  for (int i = 1; i < 100'000; ++i) {
    const double an = -i * (i - a);
    b += 2;
    d = an * d + b;
    if (std::abs(d) < tiny) d = tiny;
    c = b + an / c;
    if (std::abs(c) < tiny) c = tiny;
    d = 1 / d;
    h *= d * c;
    if (std::abs(d * c - 1) < 1e-15) break;
  }
  return scale * h;
}

// The x in [low, high] where a monotone function becomes true.
template <typename F>
double FirstTrue(double low, double high, const F& f) {
  while (!f(high)) high *= 2;
  for (int i = 0; i < 200 && high - low > 1e-12 * high; ++i) {
    const double middle = (low + high) / 2;
    (f(middle) ? high : low) = middle;
  }
  return high;
}

struct Cell {
  double a = 0, b = 0;
};

// Outcomes that are expected often enough on both sides, and the rest as one cell, which goes to the smallest
// other if it is too small itself.
std::vector<Cell> Cells(const std::map<std::string, int64_t>& a, const std::map<std::string, int64_t>& b,
                        double share_a, double share_b) {
  std::map<std::string, Cell> outcomes;
  for (const auto& [outcome, count] : a) outcomes[outcome].a += static_cast<double>(count);
  for (const auto& [outcome, count] : b) outcomes[outcome].b += static_cast<double>(count);
  const double share = std::min(share_a, share_b);
  std::vector<Cell> cells;
  Cell rest;
  for (const auto& [outcome, cell] : outcomes) {
    if ((cell.a + cell.b) * share >= kMinExpectation) {
      cells.push_back(cell);
    } else {
      rest.a += cell.a;
      rest.b += cell.b;
    }
  }
  if (rest.a + rest.b == 0) return cells;
  if ((rest.a + rest.b) * share >= kMinExpectation || cells.empty()) {
    cells.push_back(rest);
  } else {
    Cell& smallest = *std::min_element(cells.begin(), cells.end(),
                                       [](const Cell& x, const Cell& y) { return x.a + x.b < y.a + y.b; });
    smallest.a += rest.a;
    smallest.b += rest.b;
  }
  return cells;
}

double Total(const std::map<std::string, int64_t>& counts) {
  double total = 0;
  for (const auto& [outcome, count] : counts) total += static_cast<double>(count);
  return total;
}

}  // namespace

double ChiSquareTail(double x, int df, double noncentrality) {
  if (noncentrality <= 0) return UpperGamma(df / 2.0, x / 2);
  // A mixture over Poisson weights, from its middle outwards.
  const double mean = noncentrality / 2;
  const auto middle = static_cast<int>(mean);
  const auto term = [&](int j) {
    return std::exp(j * std::log(mean) - mean - std::lgamma(j + 1.0)) * UpperGamma(df / 2.0 + j, x / 2);
  };
  const int reach = 20 + static_cast<int>(10 * std::sqrt(mean));
  double sum = 0;
  for (int j = std::max(0, middle - reach); j <= middle + reach; ++j) sum += term(j);
  return std::min(sum, 1.0);
}

double ChiSquareQuantile(double level, int df) {
  return FirstTrue(0, df + 10, [&](double x) { return ChiSquareTail(x, df) <= level; });
}

Homogeneity CompareLaws(const std::map<std::string, int64_t>& a, const std::map<std::string, int64_t>& b,
                        double level) {
  const double size_a = Total(a), size_b = Total(b), total = size_a + size_b;
  const std::vector<Cell> cells = Cells(a, b, size_a / total, size_b / total);
  Homogeneity result;
  result.cells = static_cast<int>(cells.size());
  result.df = result.cells - 1;
  if (result.df < 1) return result;
  for (const Cell& cell : cells) {
    const double expected_a = (cell.a + cell.b) * size_a / total;
    const double expected_b = (cell.a + cell.b) * size_b / total;
    result.statistic += (cell.a - expected_a) * (cell.a - expected_a) / expected_a +
                        (cell.b - expected_b) * (cell.b - expected_b) / expected_b;
  }
  result.p_value = ChiSquareTail(result.statistic, result.df);
  // With laws p and q and m = (size_a p + size_b q) / total the noncentrality is
  //   h sum (p - q)^2 / m,   h = size_a size_b / total,
  // and by Cauchy and Schwarz that is at least h (sum |p - q|)^2 = 4 h TV^2.
  const double critical = ChiSquareQuantile(level, result.df);
  const double needed = FirstTrue(0, critical, [&](double noncentrality) {
    return ChiSquareTail(critical, result.df, noncentrality) >= kPower;
  });
  result.detectable_distance = std::min(1.0, std::sqrt(needed / (4 * size_a * size_b / total)));
  return result;
}

}  // namespace tandem::cli
