// From a confidence logit to the probability that a draft is accepted, given that those before it are:
//
//   c = sigmoid(scale * z + bias)
//
// fitted online to the cumulative product: with P the (calibrated) survival of the drafts before, the label
// "all up to here accepted" has probability p = P c. Maximum likelihood by one Newton step an observation,
// with the Fisher information summed over what was seen:
//
//   u = scale z + bias,  x = (z, 1)
//   d log-loss / du = -(1 - c) for label 1, p (1 - c) / (1 - p) for label 0
//   information     =  p (1 - c)^2 / (1 - p)
//   A <- keep A + (1 - keep) A0 + information x x^T
//   theta <- theta - A^-1 (gradient x + (1 - keep) A0 (theta - theta0))
//
// Old observations are forgotten with memory kMemory rounds, back to the starting point theta0 which counts
// as the information A0. A single observation moves each parameter by a bounded step, so that nothing a
// drafter sends can throw the fit off; it can only make it useless, which the guard of Calibration sees.
#pragma once

#include <algorithm>
#include <cmath>

namespace tandem::verifier {

class ConfidenceFit {
 public:
  static constexpr double kMemory = 2048;   // observations
  static constexpr double kMaxLogit = 30;   // |z| beyond counts as this
  static constexpr double kMaxScale = 8;    // 0..: never turned over, so that c keeps the head's order
  static constexpr double kMaxBias = 16;    // |bias|
  static constexpr double kMaxStep = 0.25;  // of scale and bias, an observation

  ConfidenceFit() : ConfidenceFit(1, 0) {}
  // A starting point out of range is brought into it; one that is no number is identity.
  ConfidenceFit(double scale, double bias);

  double Confidence(double logit) const {
    return 1 / (1 + std::exp(-(scale_ * std::clamp(logit, -kMaxLogit, kMaxLogit) + bias_)));
  }

  // `confidence` = Confidence(logit); survival_before in (0, 1].
  void Observe(double logit, double survival_before, double confidence, bool accepted);

  double scale() const { return scale_; }
  double bias() const { return bias_; }

 private:
  // How firmly the starting point is believed: as a standard deviation of 0.5 in scale and 1 in bias.
  static constexpr double kScaleInformation = 4, kBiasInformation = 1;

  double first_scale_, first_bias_;
  double scale_, bias_;
  double information_zz_ = kScaleInformation, information_z1_ = 0, information_11_ = kBiasInformation;
};

}  // namespace tandem::verifier
