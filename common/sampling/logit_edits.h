// Steps 1 to 4 of the filter order: logit bias, penalties, forbidden tokens.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {

// Whether the position changes any logit, so that callers can leave the row where it is.
bool HasLogitEdits(const Position& position);

// Applied in f32 to row [V], in time of the ids named and not of V:
//   z += b                          logit_bias {id: b}
//   z = z > 0 ? z / r : z * r       repetition penalty r, ids of prompt or output, once each
//   z -= f * count + h              frequency and presence penalty f, h, ids of the output
//   z = -inf                        masked ids
// kInvalidArgument for an id outside [0, V).
absl::Status ApplyLogitEdits(const Position& position, std::span<float> row);

}  // namespace tandem::sampling
