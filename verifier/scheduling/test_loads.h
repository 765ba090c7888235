// Step times and loads for tests of this folder.
#pragma once

#include <random>
#include <vector>

#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

// `read` seconds whatever the rows, `per_row` more for each.
inline StepTimeModel LinearStepTime(double read, double per_row) {
  std::vector<StepTimePoint> points;
  for (const int rows : kMeasuredDecodeRows) points.push_back({rows, read + per_row * rows});
  return *StepTimeModel::FromMeasurements(points);
}

// Products of up to `max_drafts` random confidences.
inline std::vector<double> RandomSurvivals(std::mt19937_64& rng, size_t max_drafts) {
  std::uniform_real_distribution<double> confidence(0.2, 1);
  std::vector<double> survivals(rng() % (max_drafts + 1));
  double product = 1;
  for (double& survival : survivals) survival = product *= confidence(rng);
  return survivals;
}

}  // namespace tandem::verifier
