// calibration.json of a draft checkpoint: how its confidence logits become probabilities, as fitted before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/speculation/messages.h"

namespace tandem::drafter {

// One entry per setting and acceptance rule: `coup:T` and `rej:T` give one, `greedy` one of each, since both
// rules are the same at temperature 0. Other settings are ignored. A setting without scale_bias is read as
// scale = 1 / temperature. kInvalidArgument names `path` and the field.
absl::StatusOr<std::vector<speculation::InitialCalibration>> ParseCalibration(const std::string& text,
                                                                              int32_t block_size,
                                                                              const std::string& path);

}  // namespace tandem::drafter
