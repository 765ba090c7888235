#include "verifier/scheduling/calibration_metrics.h"

#include <array>
#include <cmath>
#include <vector>

#include "common/base/status.h"

namespace tandem::verifier {

double ExpectedCalibrationErrorOf(std::span<const double> predictions, std::span<const uint8_t> labels) {
  TANDEM_CHECK(predictions.size() == labels.size());
  std::array<double, kNumCalibrationBins> predicted = {}, accepted = {};
  for (size_t i = 0; i < predictions.size(); ++i) {
    const double p = ClampProbability(predictions[i]);
    const size_t bin = ProbabilityBin(p, kNumCalibrationBins);
    predicted[bin] += p;
    accepted[bin] += labels[i];
  }
  double sum = 0;
  for (size_t bin = 0; bin < kNumCalibrationBins; ++bin) sum += std::abs(predicted[bin] - accepted[bin]);
  return predictions.empty() ? 0 : sum / static_cast<double>(predictions.size());
}

std::optional<double> Auroc(std::span<const double> predictions, std::span<const uint8_t> labels) {
  TANDEM_CHECK(predictions.size() == labels.size());
  constexpr size_t kBins = 1000;
  std::vector<double> positives(kBins), negatives(kBins);
  for (size_t i = 0; i < predictions.size(); ++i) {
    const size_t bin = ProbabilityBin(ClampProbability(predictions[i]), kBins);
    (labels[i] != 0 ? positives : negatives)[bin] += 1;
  }
  double num_positives = 0, num_negatives = 0, ordered = 0;
  for (size_t bin = 0; bin < kBins; ++bin) {
    ordered += positives[bin] * (num_negatives + negatives[bin] / 2);
    num_positives += positives[bin];
    num_negatives += negatives[bin];
  }
  if (num_positives == 0 || num_negatives == 0) return std::nullopt;
  return ordered / (num_positives * num_negatives);
}

double BrierScore(std::span<const double> predictions, std::span<const uint8_t> labels) {
  TANDEM_CHECK(predictions.size() == labels.size());
  double sum = 0;
  for (size_t i = 0; i < predictions.size(); ++i) {
    const double error = ClampProbability(predictions[i]) - labels[i];
    sum += error * error;
  }
  return predictions.empty() ? 0 : sum / static_cast<double>(predictions.size());
}

}  // namespace tandem::verifier
