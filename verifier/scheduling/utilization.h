// How busy the verifier is: the gauge verifier_utilization_ratio and its parts, from which draft windows and
// admission follow.
//
//   tokens part = (anchors + prefill tokens of a step) / knee     (of what a step does for free)
//   kv part     = KV blocks in use / blocks of the pool
//   ratio       = max of both
//
// Each part is the mean over the last kWindow steps (over all, while there are fewer). 1 means saturated; the
// tokens part may exceed it. Drafts don't count: speculation must not look like load to the policy that
// decides on it.
//
// Not thread-safe; the step loop owns it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace tandem::verifier {

struct StepOccupancy {
  int num_anchors = 0;
  int num_prefill_tokens = 0;
  double knee = 1;               // StepTimeModel::Knee(), >= 1
  int64_t kv_blocks_in_use = 0;  // blocks that sequences hold; cached ones that nobody holds are free
  int64_t kv_blocks_total = 0;   // > 0
};

class Utilization {
 public:
  static constexpr size_t kWindow = 16;  // steps
  // What one step counts at most: a single long prompt is not yet a load that lasts.
  static constexpr double kMostOfAStep = 2;

  void Observe(const StepOccupancy& load);
  // Nothing runs any more: no step will come that could lower the mean, so it starts afresh at 0.
  void Idle();

  double tokens_ratio() const;
  double kv_ratio() const;
  double ratio() const;

 private:
  struct Parts {
    double tokens = 0, kv = 0;
  };

  std::array<Parts, kWindow> steps_;  // a ring; the oldest is overwritten
  size_t next_ = 0;
  size_t num_steps_ = 0;  // <= kWindow
};

}  // namespace tandem::verifier
