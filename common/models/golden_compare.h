// How close a model in f32 must come to its golden case.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "common/models/golden_case.h"

namespace tandem::models {

// golden/targets/README.md, "Tolerance, float32 engine".
inline float LogitTolerance(float expected) { return 2e-4f + 2e-5f * std::abs(expected); }
inline constexpr float kHiddenTolerance = 5e-5f;  // of the largest value of the tensor

// Reports the worst excess over the bound.
inline void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected,
                        const std::function<float(float)>& bound, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  size_t worst = 0;
  float worst_ratio = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const float ratio = std::abs(actual[i] - expected[i]) / bound(expected[i]);
    if (ratio > worst_ratio || std::isnan(ratio)) {
      worst = i;
      worst_ratio = ratio;
    }
    if (std::isnan(ratio)) break;
  }
  EXPECT_LE(worst_ratio, 1.0f) << what << ": element " << worst << " is " << actual[worst] << ", expected "
                               << expected[worst] << " +- " << bound(expected[worst]);
}

// The layers l of hidden_<l>.<prompt>, ascending.
inline std::vector<int32_t> TapsOf(const ExpectedTensors& expected, int prompt) {
  std::vector<int32_t> taps;
  const std::string suffix = fmt::format(".{}", prompt);
  for (const std::string& name : expected.Names()) {
    if (name.starts_with("hidden_") && name.ends_with(suffix)) taps.push_back(std::stoi(name.substr(7)));
  }
  std::sort(taps.begin(), taps.end());
  return taps;
}

}  // namespace tandem::models
