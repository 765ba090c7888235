// Whether two samples of outcomes come from the same law: Pearson's chi-square test of homogeneity, with what
// it would have found. Pure arithmetic.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace tandem::cli {

// P(X >= x) for X of the chi-square law with `df` degrees of freedom; with `noncentrality` > 0 of the
// noncentral one. df >= 1, x >= 0.
double ChiSquareTail(double x, int df, double noncentrality = 0);

// The x with ChiSquareTail(x, df) = level, 0 < level < 1.
double ChiSquareQuantile(double level, int df);

struct Homogeneity {
  int cells = 0;  // with an expectation of at least 5 on both sides; rarer outcomes are one cell together
  int df = 0;     // cells - 1; 0: everything fell into one cell, nothing can be said
  double statistic = 0;
  double p_value = 1;
  // A difference of so much total variation over the cells, or more, is found with probability 0.9 at the
  // level. 1 if nothing can be said.
  double detectable_distance = 1;
};

// Counts by outcome. Both samples are not empty; sizes may differ.
Homogeneity CompareLaws(const std::map<std::string, int64_t>& a, const std::map<std::string, int64_t>& b,
                        double level);

}  // namespace tandem::cli
