// Golden JSON as the sampling tests read it: 64-bit numbers are 16 hex digits, 32-bit words 8.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/golden.h"

namespace tandem::sampling {

inline nlohmann::json ReadGolden(const std::string& name) {
  const auto path = testing::GoldenDir() / "sampling" / name;
  nlohmann::json json = nlohmann::json::parse(testing::ReadFile(path), nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(json.is_discarded()) << "cannot read " << path;
  return json;
}

inline uint64_t Hex(const nlohmann::json& value) {
  return std::stoull(value.get<std::string>(), nullptr, 16);
}
// Words in one string, separated by blanks.
inline std::vector<uint32_t> HexWords(const nlohmann::json& value) {
  std::vector<uint32_t> words;
  std::istringstream text(value.get<std::string>());
  for (std::string word; text >> word;)
    words.push_back(static_cast<uint32_t>(std::stoull(word, nullptr, 16)));
  return words;
}
inline uint32_t Hex32(const nlohmann::json& value) { return static_cast<uint32_t>(Hex(value)); }

}  // namespace tandem::sampling
