#include "verifier/scheduling/utilization.h"

#include <algorithm>

#include "common/base/status.h"

namespace tandem::verifier {

void Utilization::Observe(const StepOccupancy& load) {
  TANDEM_CHECK(load.knee >= 1 && load.kv_blocks_total > 0);
  TANDEM_CHECK(load.kv_blocks_in_use >= 0 && load.kv_blocks_in_use <= load.kv_blocks_total);
  const double num_tokens = static_cast<double>(load.num_anchors) + load.num_prefill_tokens;
  steps_[next_] = {std::min(num_tokens / load.knee, kMostOfAStep),
                   static_cast<double>(load.kv_blocks_in_use) / static_cast<double>(load.kv_blocks_total)};
  next_ = (next_ + 1) % kWindow;
  num_steps_ = std::min(num_steps_ + 1, kWindow);
}

void Utilization::Idle() { *this = Utilization(); }

// Summed anew each time: a running sum would drift.
double Utilization::tokens_ratio() const {
  double sum = 0;
  for (size_t i = 0; i < num_steps_; ++i) sum += steps_[i].tokens;
  return num_steps_ == 0 ? 0 : sum / static_cast<double>(num_steps_);
}

double Utilization::kv_ratio() const {
  double sum = 0;
  for (size_t i = 0; i < num_steps_; ++i) sum += steps_[i].kv;
  return num_steps_ == 0 ? 0 : sum / static_cast<double>(num_steps_);
}

double Utilization::ratio() const { return std::max(tokens_ratio(), kv_ratio()); }

}  // namespace tandem::verifier
