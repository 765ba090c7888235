// Keeps a step time model between runs, so that a verifier need not measure again: one small JSON file for
// each numerics_id (kernels, dispatch target, types, device) in the user's cache directory.
//
// The file is a hint. Whatever is wrong with it is an error here, which the caller logs before it measures
// anew.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "verifier/scheduling/step_time_model.h"

namespace tandem::verifier {

// DIRECTORY/step_time/HASH.json; a hash, since a numerics_id may hold any character. `cache_directory` is the
// user's (for example ~/.cache/tandem).
std::string StepTimeCachePath(const std::string& cache_directory, const std::string& numerics_id);

// kNotFound if there is no file; kInvalidArgument, naming file and field, if it is larger than 64 KiB, is not
// what SaveStepTime writes, belongs to another numerics_id, or holds numbers that no model can have.
absl::StatusOr<StepTimeModel> LoadStepTime(const std::string& path, const std::string& numerics_id);

// Creates the directories, writes beside the file and renames, so that a reader sees the old or the new one
// whole; of several verifiers the last wins. kUnavailable with the path and the system's reason.
absl::Status SaveStepTime(const StepTimeModel& model, const std::string& path,
                          const std::string& numerics_id);

}  // namespace tandem::verifier
