// Where the files of named models lie on this machine.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "common/base/model_store.h"

namespace tandem::testing {

// The file that `tandem pull NAME` puts into the user's cache. It may be missing; empty for an unknown name.
inline std::filesystem::path PulledFile(const std::string& name) {
  const NamedModel* model = FindNamedModel(name);
  if (model == nullptr) return {};
  return std::filesystem::path(ModelDirectory(*model).value_or("")) / model->file;
}

// TANDEM_SMOLLM2, or the pulled file of the default model.
inline std::filesystem::path SmolLM2File() {
  const char* const path = std::getenv("TANDEM_SMOLLM2");
  return path != nullptr && *path != '\0' ? std::filesystem::path(path) : PulledFile("smollm2-135m");
}

// Whether this machine is said to have no network: tests of files that must be pulled skip instead of
// failing.
inline bool IsOffline() {
  const char* const value = std::getenv("TANDEM_OFFLINE");
  return value != nullptr && std::string(value) == "1";
}

}  // namespace tandem::testing
