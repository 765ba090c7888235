// Confidence logits to probabilities that hold, learnt from outcomes.
//
//   c_k = sigmoid(scale_k * z_k + bias_k),   a_k = c_1 ... c_k
//
// Fitted left to right so that the cumulative product a_k is what is calibrated (sequential scaling, DSpark
// 6.2, with a bias): for position k the label is 1 iff drafts 1..k were all accepted, over rounds in which
// position k was checked (the window alone censors; after an earlier rejection the label is 0 as long as k
// was within the window). The fit is confidence_fit.h, one set per (drafter, acceptance mode, temperature
// bucket): a Calibration belongs to one drafter and mode.
//
//   Calibration calibration(block_size);
//   calibration.Start(mode, hello.calibration);                      // from DrafterHello, or nothing
//   calibration.Survivals(bucket, logits, num_drafts, survivals);    // in a step
//   calibration.Observe(bucket, logits, window, accepted);           // after it
//
// The guard: over recent rounds the quadratic score sum_k (a_k - label)^2 of the head is compared with that
// of observed acceptance by position (acceptance_history.h), both as they were before the outcome was known.
// A head that is not better by kLeastGain is not trusted, and observed acceptance serves in its place until
// the head is better by kGainToReturn; either only beyond kGuardDeviations standard errors, while there are
// few rounds beyond kPlainDeviations: a head that is far off must not keep drafting from beginning. It goes
// on learning meanwhile.
//
// Logits come from outside. A round with one that is not finite counts as a round without logits.
//
// Not thread-safe; the step loop owns it. No clock.
#pragma once

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
  static constexpr double kGuardMemory = 512;        // rounds
  static constexpr double kRoundsBeforeGuard = 128;  // before it judges
  static constexpr double kFirstRounds = 16;         // before it judges what is plain
  static constexpr double kLeastGain = 0.01;         // of the quadratic score, relative
  static constexpr double kGainToReturn = 0.02;
  static constexpr double kGuardDeviations = 1;
  static constexpr double kPlainDeviations = 3;   // before kRoundsBeforeGuard
  static constexpr double kExpectedMemory = 256;  // rounds, of ExpectedSurvivals

  explicit Calibration(int block_size);
  ~Calibration();
  Calibration(Calibration&&);
  Calibration& operator=(Calibration&&);

  int block_size() const;

  // Starting point of every bucket: the set of this mode with the largest temperature inside the bucket, else
  // the nearest, else identity. Positions that a set lacks start at identity. Forgets what was observed.
  void Start(speculation::AcceptanceMode mode, std::span<const speculation::InitialCalibration> sets);

  // survivals [num_drafts]: a_1..a_n, non-increasing, in [0, 1]; num_drafts in 0..block_size. With a head
  // that cannot be trusted (Trusted), or without a finite logit for each draft (an empty span, for example):
  // observed acceptance per position instead of the head's.
  void Survivals(int bucket, std::span<const float> logits, int num_drafts,
                 std::vector<double>& survivals) const;
  // What is expected of drafts that do not exist yet: mean survivals by position [block_size], over recent
  // rounds. A prior before the first. Valid until the next Observe or Start.
  std::span<const double> ExpectedSurvivals(int bucket) const;

  // A checked round: `window` drafts were checked, `accepted` of them stood; 0 <= accepted <= window <=
  // block_size. logits of all drafts, or empty. A round with window 0 still says what the head expected.
  void Observe(int bucket, std::span<const float> logits, int window, int accepted);

  // |expected - real|, 20 equal bins, over the recent rounds in which the position (from 0) was checked, all
  // buckets together; of the survivals as they were served.
  double ExpectedCalibrationError(int position) const;
  // False while the head is no better than the observed frequencies (guard); said in a metric.
  bool Trusted(int bucket) const;

 private:
  struct Bucket;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tandem::verifier
