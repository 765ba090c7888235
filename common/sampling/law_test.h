// Statistics for tests of laws: do two samples come from the same distribution, or one from a given one?
//
//   SampleCounts a, b;  ++a[cell] ...
//   const LawComparison c = CompareSamples(a, b);
//   EXPECT_GT(c.p_value, 1e-4);          // a test that is right fails once in ten thousand runs
//
// Pearson's chi-square over cells; those expected less than kLeastExpectation times in either sample are
// pooled into one. A p-value says nothing of what would have been found: Power does, for a law that differs.
//
// Pure functions of their arguments; f64.
#pragma once

#include <cstdint>
#include <map>

namespace tandem::sampling {

using SampleCounts = std::map<uint64_t, int64_t>;  // by cell, whatever the caller means by it
using Law = std::map<uint64_t, double>;            // sums to 1

inline constexpr double kLeastExpectation = 5;

struct LawComparison {
  double statistic = 0;
  int degrees_of_freedom = 0;  // 0: a single cell, nothing to compare
  double p_value = 1;          // of a statistic as large as this, if the laws are equal
};

// Homogeneity of two samples, both not empty: sum of (n_b a - n_a b)^2 / (n_a n_b (a + b)).
LawComparison CompareSamples(const SampleCounts& a, const SampleCounts& b);
// Goodness of fit: sum of (count - n p)^2 / (n p). A count in a cell of probability 0 gives p-value 0.
LawComparison CompareWithLaw(const SampleCounts& sample, const Law& law);

// Q(a, x) = Gamma(a, x) / Gamma(a) for a > 0, x >= 0, to about 1e-12: the chance that a chi-square variable
// of 2 a degrees of freedom exceeds 2 x.
double UpperIncompleteGamma(double a, double x);
double ChiSquareTail(double statistic, int degrees_of_freedom);
// The statistic that is exceeded with chance `level` in (0, 1).
double ChiSquareCritical(double level, int degrees_of_freedom);

// The chance that a comparison at `level` finds a difference: that a non-central chi-square variable exceeds
// the critical value. The non-centrality grows with the samples: n sum (p - q)^2 / p against a law,
// n sum (p - q)^2 / (p + q) for two samples of n.
double Power(double noncentrality, int degrees_of_freedom, double level);
// Of a statistic that was seen: a value that the non-centrality exceeds but for three standard errors.
double LeastNoncentrality(const LawComparison& seen);

}  // namespace tandem::sampling
