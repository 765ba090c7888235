#include "verifier/scheduling/temperature_scaling.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "common/base/status.h"
#include "verifier/scheduling/calibration_metrics.h"

namespace tandem::verifier {
namespace {

constexpr int kLastGridPoint = 160;
constexpr int kGridPointOfOne = 64;
// What summation leaves between equal errors.
constexpr double kTie = 1e-13;

double GridTemperature(int i) { return 0.25 * std::pow(32.0, i / static_cast<double>(kLastGridPoint)); }

double Sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

void Check(const CalibrationRounds& rounds) {
  TANDEM_CHECK(rounds.accepted.size() == rounds.proposal_length.size());
  TANDEM_CHECK(rounds.logits.size() == rounds.accepted.size() * rounds.block_size);
}

}  // namespace

std::vector<double> SequentialTemperatureScaling(const CalibrationRounds& rounds) {
  Check(rounds);
  std::vector<double> temperatures;
  std::vector<double> products(rounds.accepted.size(), 1.0);  // of the positions before k
  std::vector<double> predictions;
  std::vector<uint8_t> labels;
  for (size_t k = 0; k < rounds.block_size; ++k) {
    const auto logit = [&](size_t round) {
      return static_cast<double>(rounds.logits[round * rounds.block_size + k]);
    };
    const auto position = static_cast<int32_t>(k + 1);
    const auto error_at = [&](double temperature) {
      predictions.clear();
      labels.clear();
      for (size_t round = 0; round < products.size(); ++round) {
        if (rounds.proposal_length[round] < position) continue;
        predictions.push_back(products[round] * Sigmoid(logit(round) / temperature));
        labels.push_back(rounds.accepted[round] >= position);
      }
      return ExpectedCalibrationErrorOf(predictions, labels);
    };
    int best = kGridPointOfOne;
    double best_error = std::numeric_limits<double>::infinity();
    for (int i = 0; i <= kLastGridPoint; ++i) {
      const double error = error_at(GridTemperature(i));
      const bool closer = std::abs(i - kGridPointOfOne) < std::abs(best - kGridPointOfOne);
      if (error < best_error - kTie || (error <= best_error + kTie && closer)) {
        best = i;
        best_error = std::min(error, best_error);
      }
    }
    temperatures.push_back(GridTemperature(best));
    for (size_t round = 0; round < products.size(); ++round) {
      products[round] *= Sigmoid(logit(round) / temperatures.back());
    }
  }
  return temperatures;
}

std::vector<double> ScaledSurvivals(const CalibrationRounds& rounds, std::span<const double> temperatures) {
  Check(rounds);
  TANDEM_CHECK(temperatures.size() == rounds.block_size);
  std::vector<double> survivals(rounds.logits.size());
  for (size_t i = 0; i < survivals.size(); ++i) {
    const size_t k = i % rounds.block_size;
    survivals[i] = Sigmoid(rounds.logits[i] / temperatures[k]) * (k == 0 ? 1 : survivals[i - 1]);
  }
  return survivals;
}

}  // namespace tandem::verifier
