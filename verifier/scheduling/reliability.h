// Promised against real survival of one position, over recent rounds: 20 equal bins with exponential
// forgetting, and their expected calibration error.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "verifier/scheduling/calibration_metrics.h"

namespace tandem::verifier {

class Reliability {
 public:
  static constexpr double kMemory = 4096;  // rounds in which the position was checked

  void Observe(double promised, bool accepted) {
    differences_[ProbabilityBin(ClampProbability(promised), kNumCalibrationBins)] +=
        weight_ * (promised - (accepted ? 1 : 0));
    sum_ += weight_;
    // A newer round weighs more, rather than all older ones less.
    weight_ *= 1 + 1 / kMemory;
    if (weight_ > 1e30) Rescale();
  }

  // sum_b |sum of (promised - accepted)| / rounds; 0 before the first.
  double Error() const {
    double sum = 0;
    for (const double difference : differences_) sum += std::abs(difference);
    return sum_ > 0 ? sum / sum_ : 0;
  }

 private:
  void Rescale() {
    for (double& difference : differences_) difference /= weight_;
    sum_ /= weight_;
    weight_ = 1;
  }

  std::array<double, kNumCalibrationBins> differences_ =
      {};  // promised - accepted, by bin of what was promised
  double sum_ = 0;
  double weight_ = 1;
};

}  // namespace tandem::verifier
