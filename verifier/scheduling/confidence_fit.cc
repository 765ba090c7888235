#include "verifier/scheduling/confidence_fit.h"

namespace tandem::verifier {

ConfidenceFit::ConfidenceFit(double scale, double bias) {
  const bool usable = std::isfinite(scale) && std::isfinite(bias);
  first_scale_ = scale_ = usable ? std::clamp(scale, 0.0, kMaxScale) : 1;
  first_bias_ = bias_ = usable ? std::clamp(bias, -kMaxBias, kMaxBias) : 0;
}

void ConfidenceFit::Observe(double logit, double survival_before, double confidence, bool accepted) {
  const double z = std::clamp(logit, -kMaxLogit, kMaxLogit);
  const double miss = 1 - confidence;
  // 1 - p, kept above 0 where everything is sure.
  const double p = survival_before * confidence;
  const double not_p = std::max(1 - p, 1e-6);
  const double gradient = accepted ? -miss : p * miss / not_p;
  const double information = p * miss * miss / not_p;

  constexpr double kForget = 1 / kMemory;
  information_zz_ += kForget * (kScaleInformation - information_zz_) + information * z * z;
  information_z1_ += kForget * (0 - information_z1_) + information * z;
  information_11_ += kForget * (kBiasInformation - information_11_) + information;

  const double pull_z = gradient * z + kForget * kScaleInformation * (scale_ - first_scale_);
  const double pull_1 = gradient + kForget * kBiasInformation * (bias_ - first_bias_);
  const double determinant = information_zz_ * information_11_ - information_z1_ * information_z1_;
  const double scale_step = (information_11_ * pull_z - information_z1_ * pull_1) / determinant;
  const double bias_step = (information_zz_ * pull_1 - information_z1_ * pull_z) / determinant;
  scale_ = std::clamp(scale_ - std::clamp(scale_step, -kMaxStep, kMaxStep), 0.0, kMaxScale);
  bias_ = std::clamp(bias_ - std::clamp(bias_step, -kMaxStep, kMaxStep), -kMaxBias, kMaxBias);
}

}  // namespace tandem::verifier
