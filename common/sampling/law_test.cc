#include "common/sampling/law_test.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "common/base/status.h"

namespace tandem::sampling {
namespace {

// What a cell contributes: how often it was seen in each sample (or seen and expected), and the smaller of
// its expectations.
struct Cell {
  double a = 0, b = 0, expectation = 0;

  Cell& operator+=(const Cell& other) {
    a += other.a;
    b += other.b;
    expectation += other.expectation;
    return *this;
  }
};

// Rare cells become one; if that is rare as well, it joins the rarest of the others.
std::vector<Cell> Pool(const std::vector<Cell>& cells) {
  std::vector<Cell> kept;
  Cell rest;
  bool any_rest = false;
  for (const Cell& cell : cells) {
    if (cell.expectation >= kLeastExpectation) {
      kept.push_back(cell);
    } else {
      rest += cell;
      any_rest = true;
    }
  }
  if (!any_rest) return kept;
  if (rest.expectation >= kLeastExpectation || kept.empty()) {
    kept.push_back(rest);
  } else {
    *std::ranges::min_element(kept, {}, &Cell::expectation) += rest;
  }
  return kept;
}

double Total(const SampleCounts& counts) {
  double total = 0;
  for (const auto& [cell, count] : counts) total += static_cast<double>(count);
  return total;
}

LawComparison Conclude(double statistic, size_t num_cells) {
  LawComparison result;
  result.statistic = statistic;
  result.degrees_of_freedom = static_cast<int>(num_cells) - 1;
  if (result.degrees_of_freedom > 0) result.p_value = ChiSquareTail(statistic, result.degrees_of_freedom);
  return result;
}

// P(a, x) = x^a e^-x / Gamma(a + 1) * (1 + x / (a + 1) + x^2 / ((a + 1)(a + 2)) + ...), for x < a + 1.
double LowerBySeries(double a, double x) {
  double term = 1, sum = 1;
  for (double n = a + 1; term > sum * std::numeric_limits<double>::epsilon(); ++n) sum += term *= x / n;
  return sum * std::exp(a * std::log(x) - x - std::lgamma(a + 1));
}

// Q(a, x) = x^a e^-x / Gamma(a) * 1 / (x + 1 - a - 1 (1 - a) / (x + 3 - a - ...)), for x >= a + 1, by the
// modified Lentz algorithm.
double UpperByFraction(double a, double x) {
  constexpr double kTiny = 1e-300;
  double b = x + 1 - a;
  double c = 1 / kTiny, d = 1 / b, product = d;
  for (int i = 1; i < 100000; ++i) {
    const double numerator = -i * (i - a);
    b += 2;
    d = numerator * d + b;
    if (std::abs(d) < kTiny) d = kTiny;
    c = b + numerator / c;
    if (std::abs(c) < kTiny) c = kTiny;
    d = 1 / d;
    product *= d * c;
    if (std::abs(d * c - 1) < std::numeric_limits<double>::epsilon()) break;
  }
  return product * std::exp(a * std::log(x) - x - std::lgamma(a));
}

}  // namespace

double UpperIncompleteGamma(double a, double x) {
  TANDEM_CHECK(a > 0 && x >= 0);
  if (x == 0) return 1;
  return std::clamp(x < a + 1 ? 1 - LowerBySeries(a, x) : UpperByFraction(a, x), 0.0, 1.0);
}

double ChiSquareTail(double statistic, int degrees_of_freedom) {
  return UpperIncompleteGamma(degrees_of_freedom / 2.0, std::max(statistic, 0.0) / 2);
}

double ChiSquareCritical(double level, int degrees_of_freedom) {
  TANDEM_CHECK(level > 0 && level < 1 && degrees_of_freedom > 0);
  double low = 0, high = degrees_of_freedom;
  while (ChiSquareTail(high, degrees_of_freedom) > level) high *= 2;
  while (high - low > 1e-10 * high) {
    const double middle = (low + high) / 2;
    (ChiSquareTail(middle, degrees_of_freedom) > level ? low : high) = middle;
  }
  return high;
}

LawComparison CompareSamples(const SampleCounts& a, const SampleCounts& b) {
  const double n_a = Total(a), n_b = Total(b);
  TANDEM_CHECK(n_a > 0 && n_b > 0);
  std::map<uint64_t, Cell> by_id;
  for (const auto& [id, count] : a) by_id[id].a = static_cast<double>(count);
  for (const auto& [id, count] : b) by_id[id].b = static_cast<double>(count);
  std::vector<Cell> cells;
  for (auto& [id, cell] : by_id) {
    cell.expectation = std::min(n_a, n_b) * (cell.a + cell.b) / (n_a + n_b);
    cells.push_back(cell);
  }
  cells = Pool(cells);
  double statistic = 0;
  for (const Cell& cell : cells) {
    const double difference = n_b * cell.a - n_a * cell.b;
    statistic += difference * difference / (n_a * n_b * (cell.a + cell.b));
  }
  return Conclude(statistic, cells.size());
}

LawComparison CompareWithLaw(const SampleCounts& sample, const Law& law) {
  const double n = Total(sample);
  TANDEM_CHECK(n > 0);
  std::map<uint64_t, Cell> by_id;
  for (const auto& [id, count] : sample) by_id[id].a = static_cast<double>(count);
  for (const auto& [id, probability] : law) by_id[id].b = by_id[id].expectation = n * probability;
  std::vector<Cell> cells;
  for (const auto& [id, cell] : by_id) {
    if (cell.b <= 0 && cell.a > 0) return {std::numeric_limits<double>::infinity(), 1, 0};
    if (cell.b > 0) cells.push_back(cell);
  }
  cells = Pool(cells);
  double statistic = 0;
  for (const Cell& cell : cells) statistic += (cell.a - cell.b) * (cell.a - cell.b) / cell.b;
  return Conclude(statistic, cells.size());
}

// A mixture: the central law of d + 2 j degrees of freedom with Poisson(noncentrality / 2) weights on j.
double Power(double noncentrality, int degrees_of_freedom, double level) {
  TANDEM_CHECK(noncentrality >= 0);
  const double critical = ChiSquareCritical(level, degrees_of_freedom);
  const double mean = noncentrality / 2;
  const double reach = 12 * std::sqrt(mean) + 40;
  double power = 0;
  for (double j = std::max(0.0, std::floor(mean - reach)); j <= mean + reach; ++j) {
    const double log_weight = mean > 0 ? j * std::log(mean) - mean - std::lgamma(j + 1) : (j == 0 ? 0 : -1e9);
    power += std::exp(log_weight) * UpperIncompleteGamma(degrees_of_freedom / 2.0 + j, critical / 2);
  }
  return std::min(power, 1.0);
}

// The statistic has mean d + l and variance 2 (d + 2 l).
double LeastNoncentrality(const LawComparison& seen) {
  const double estimate = std::max(seen.statistic - seen.degrees_of_freedom, 0.0);
  return std::max(estimate - 3 * std::sqrt(2 * (seen.degrees_of_freedom + 2 * estimate)), 0.0);
}

}  // namespace tandem::sampling
