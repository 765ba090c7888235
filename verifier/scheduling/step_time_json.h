// The step time model's parameters as JSON, the same in the cache file and in decision traces.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "verifier/scheduling/step_time_model.h"

namespace tandem::verifier {

// {"table_seconds": [...], "num_known_points": n, "kappa_seconds": x, "pi_seconds": x, "offset_seconds": x}
nlohmann::json StepTimeToJson(const StepTimeParameters& parameters);

// Valid parameters out of an object that may have other fields too; kInvalidArgument naming the field.
absl::StatusOr<StepTimeParameters> StepTimeFromJson(const nlohmann::json& object);

}  // namespace tandem::verifier
