// Sequential Temperature Scaling (dspark.md 6.2), offline: one temperature per position, left to right, such
// that the cumulative product of sigmoid(z_k / T_k) is calibrated. Serving fits scale and bias online instead
// (calibration.h); this is the published method, to compare with and for a checkpoint's starting point.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::verifier {

// Rounds of full-length verification. Borrows. A round counts for position k if proposal_length >= k; its
// label is accepted >= k.
struct CalibrationRounds {
  size_t block_size = 0;
  std::span<const float> logits;             // [rounds, block_size]
  std::span<const int32_t> accepted;         // [rounds]
  std::span<const int32_t> proposal_length;  // [rounds]
};

// T_1..T_block_size: each minimises the ECE of its position over 0.25 * 32^(i / 160), i = 0..160; ties go to
// the one closest to 1. f64 throughout.
std::vector<double> SequentialTemperatureScaling(const CalibrationRounds& rounds);

// [rounds, block_size]: cumulative products of sigmoid(z / T).
std::vector<double> ScaledSurvivals(const CalibrationRounds& rounds, std::span<const double> temperatures);

}  // namespace tandem::verifier
