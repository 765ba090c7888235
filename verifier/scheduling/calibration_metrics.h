// How well predicted survivals agree with outcomes: the evaluator's measures (dspark.md 8.2), offline.
//
// predictions: probabilities, clamped to [1e-8, 1 - 1e-8]; labels: 1 = all drafts up to here were accepted.
// Equally many of both. In f64, summed in the order given.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace tandem::verifier {

inline constexpr size_t kNumCalibrationBins = 20;

inline double ClampProbability(double p) { return std::clamp(p, 1e-8, 1 - 1e-8); }

// The bin of `num_bins` equal ones on [0, 1] that a clamped prediction falls into.
inline size_t ProbabilityBin(double p, size_t num_bins) {
  return std::min(num_bins - 1, static_cast<size_t>(static_cast<double>(num_bins) * p));
}

// sum_b n_b |mean prediction - mean label| / sum_b n_b over 20 bins; 0 without predictions.
double ExpectedCalibrationErrorOf(std::span<const double> predictions, std::span<const uint8_t> labels);

// Chance that a positive is predicted above a negative, from histograms of 1000 bins (within a bin one half);
// nothing unless there are both.
std::optional<double> Auroc(std::span<const double> predictions, std::span<const uint8_t> labels);

// mean (prediction - label)^2; 0 without predictions.
double BrierScore(std::span<const double> predictions, std::span<const uint8_t> labels);

}  // namespace tandem::verifier
