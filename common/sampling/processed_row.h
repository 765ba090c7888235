// A row of logits after steps 1 to 4, checked, with its maximum: where greedy choice and filters start.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {

struct ProcessedRow {
  std::span<const float> logits;  // [V], no NaN; borrows from the input or from `buffer`
  float max;                      // finite
  int32_t argmax;                 // lowest id among equals: the greedy choice
};

// kInvalidArgument as SampleCoupled says. `buffer` receives the row if the position changes any logit.
absl::StatusOr<ProcessedRow> ProcessRow(std::span<const float> logits, const Position& position,
                                        std::vector<float>& buffer);

}  // namespace tandem::sampling
