// What a draft round costs: D(n) = base + slope * n seconds for n sequences, hand-over included, learnt from
// round trips; and the interference s in 0..1: how much a step is held up by drafting beside it (0: the
// drafter has a device of its own, 1: it runs on the verifier's cores).
//
// Not thread-safe; the step loop owns it. No clock.
#pragma once

#include <span>
#include <vector>

namespace tandem::verifier {

class DraftTimeModel {
 public:
  // seconds from sending a feed that asks for n drafts to their arrival.
  void ObserveRound(int num_sequences, double seconds);
  // A step during which drafting ran for `overlap_seconds`, predicted and real time: where s comes from.
  void ObserveOverlap(double predicted_seconds, double real_seconds, double overlap_seconds);

  bool known() const;                            // any round observed
  double RoundSeconds(int num_sequences) const;  // D(n); 0 while unknown
  double Interference() const;                   // s; 1 while unknown
  // Of recent round trips, for timeouts; 0 while unknown.
  double P99RoundSeconds() const;

 private:
  double base_ = 0, slope_ = 0, interference_ = 1;
  std::vector<double> recent_;
};

}  // namespace tandem::verifier
