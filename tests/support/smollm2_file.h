// Where the file of the default model lies on this machine.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace tandem::testing {

// TANDEM_SMOLLM2, or where `tandem pull smollm2-135m` puts it in the user's cache. The file may be missing.
inline std::filesystem::path SmolLM2File() {
  const auto variable = [](const char* name) -> std::string {
    const char* const value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  if (const std::string path = variable("TANDEM_SMOLLM2"); !path.empty()) return path;
  const std::string cache = variable("XDG_CACHE_HOME");
  return (cache.empty() ? std::filesystem::path(variable("HOME")) / ".cache" : std::filesystem::path(cache)) /
         "tandem/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf";
}

// Whether this machine is said to have no network: tests of files that must be pulled skip instead of
// failing.
inline bool IsOffline() {
  const char* const value = std::getenv("TANDEM_OFFLINE");
  return value != nullptr && std::string(value) == "1";
}

}  // namespace tandem::testing
