// Where tests find reference vectors and data. Cases are walked, never listed: other cases of the same layout
// must work.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace tandem::testing {

// TANDEM_GOLDEN_DIR, or tests/golden.
inline std::filesystem::path GoldenDir() {
  const char* dir = std::getenv("TANDEM_GOLDEN_DIR");
  return dir != nullptr && *dir != '\0' ? std::filesystem::path(dir)
                                        : std::filesystem::path(TANDEM_SOURCE_DIR) / "tests/golden";
}

// TANDEM_DATA_DIR, or tests/data.
inline std::filesystem::path DataDir() {
  const char* dir = std::getenv("TANDEM_DATA_DIR");
  return dir != nullptr && *dir != '\0' ? std::filesystem::path(dir)
                                        : std::filesystem::path(TANDEM_SOURCE_DIR) / "tests/data";
}

// The whole file; empty if it cannot be read (callers assert on content).
inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace tandem::testing
