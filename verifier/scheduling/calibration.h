// Confidence logits to probabilities that hold, learnt from outcomes.
//
//   c_k = sigmoid(scale_k * z_k + bias_k),   a_k = c_1 ... c_k
//
// Fitted left to right so that the cumulative product a_k is what is calibrated (sequential scaling, DSpark
// 6.2, with a bias): for position k the label is 1 iff drafts 1..k were all accepted, over rounds in which
// position k was checked (the window alone censors; after an earlier rejection the label is 0 as long as k
// was within the window). One set per (drafter, acceptance mode, temperature bucket).
//
//   Calibration calibration(block_size);
//   calibration.Start(settings);                       // from DrafterHello, or identity
//   calibration.Survivals(bucket, logits, survivals);  // in a step
//   calibration.Observe(bucket, logits, window, accepted);   // after it
//
// Not thread-safe; the step loop owns it. No clock.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/speculation/messages.h"

namespace tandem::verifier {

// By temperature: 0, (0, 0.5], (0.5, 1], above 1.
inline constexpr int kNumTemperatureBuckets = 4;
int TemperatureBucket(float temperature);

class Calibration {
 public:
  explicit Calibration(int block_size);

  // Starting point of every bucket: the set of this mode with the largest temperature inside the bucket, else
  // the nearest, else identity. Forgets what was observed.
  void Start(speculation::AcceptanceMode mode, std::span<const speculation::InitialCalibration> sets);

  // survivals [n]: a_1..a_n, non-increasing, in [0, 1]. With a head that cannot be trusted (Trusted), or
  // without logits (an empty span): observed acceptance per position instead of the head's.
  void Survivals(int bucket, std::span<const float> logits, int num_drafts,
                 std::vector<double>& survivals) const;
  // What is expected of drafts that do not exist yet: mean survivals by position, over recent rounds.
  std::span<const double> ExpectedSurvivals(int bucket) const;

  // A checked round: `window` drafts were checked, `accepted` of them stood. logits of all drafts, or empty.
  void Observe(int bucket, std::span<const float> logits, int window, int accepted);

  // |expected - real|, 20 equal bins, over the recent rounds in which the position (from 0) was checked.
  double ExpectedCalibrationError(int position) const;
  // False while the head does worse than the observed frequencies (guard); said in a metric.
  bool Trusted(int bucket) const;

 private:
  struct Bucket;
  int block_size_;
  std::vector<std::unique_ptr<Bucket>> buckets_;

 public:
  ~Calibration();
};

}  // namespace tandem::verifier
