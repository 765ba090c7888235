// What a draft round costs: D(n) = base + slope * n seconds for n sequences, hand-over included, learnt from
// round trips; and the interference s in 0..1: how much a step is held up by drafting beside it (0: the
// drafter has a device of its own, 1: it runs on the verifier's cores).
//
// Medians throughout: of the slopes between pairs of recent rounds (Theil-Sen), of what remains as base, of
// the shares of overlaps that steps took longer. A quarter of the rounds may be stalled without effect, and a
// lasting change is followed after half of the recent ones. Rounds of one size only tell nothing of the
// slope, which is then 0.
//
// Not thread-safe; the step loop owns it. No clock.
#pragma once

#include <cstddef>
#include <vector>

namespace tandem::verifier {

class DraftTimeModel {
 public:
  static constexpr size_t kFitRounds = 48;          // recent rounds that D(n) is fitted to
  static constexpr size_t kPercentileRounds = 512;  // and those of P99RoundSeconds
  static constexpr size_t kOverlaps = 32;           // recent overlaps that s is taken from
  static constexpr size_t kMinOverlaps = 5;         // before s is known
  // An overlap shorter than this share of its step says nothing above the noise of the step.
  static constexpr double kMinOverlapShare = 0.05;

  // seconds from sending a feed that asks for n drafts to their arrival. Ignored unless n > 0 and the time is
  // positive and finite.
  void ObserveRound(int num_sequences, double seconds);
  // No drafts came within `seconds`: while no round is known it is taken to last that long.
  void ObserveTimeout(double seconds);
  // A step during which drafting ran for `overlap_seconds`, predicted and real time: where s comes from. The
  // prediction must be that of a step without drafting beside it.
  void ObserveOverlap(double predicted_seconds, double real_seconds, double overlap_seconds);

  bool known() const { return !rounds_.empty(); }        // any round observed
  double RoundSeconds(int num_sequences) const;          // D(n); 0 while nothing is known, and for n = 0
  double Interference() const { return interference_; }  // s; 1 while unknown
  bool interference_known() const { return overlap_shares_.size() >= kMinOverlaps; }
  // Of recent round trips, for timeouts; 0 while unknown.
  double P99RoundSeconds() const;

 private:
  struct Round {
    double num_sequences = 0, seconds = 0;
  };
  void Fit();

  double base_ = 0, slope_ = 0, interference_ = 1;
  // Rings: the oldest is overwritten.
  std::vector<Round> rounds_;
  std::vector<double> seconds_, overlap_shares_;
  size_t next_round_ = 0, next_seconds_ = 0, next_overlap_ = 0;
  int rounds_since_fit_ = 0;
  std::vector<double> work_;
};

}  // namespace tandem::verifier
