// A DFlash drafter made from a DSpark one: the same backbone without its sequential and confidence heads.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/golden.h"

namespace tandem::testing {

inline void StripHeads(const std::filesystem::path& dspark, const std::filesystem::path& out) {
  auto config = nlohmann::json::parse(ReadFile(dspark / "config.json"));
  config["markov_rank"] = 0;
  config["enable_confidence_head"] = false;
  config.erase("markov_head_type");
  config.erase("confidence_head_with_markov");
  std::filesystem::create_directories(out);
  std::ofstream(out / "config.json") << config.dump();

  const std::string file = ReadFile(dspark / "model.safetensors");
  uint64_t header_bytes = 0;
  ASSERT_GE(file.size(), sizeof(header_bytes));
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const auto header = nlohmann::json::parse(file.substr(8, header_bytes));
  nlohmann::json kept = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : header.items()) {
    if (name == "__metadata__" || name.starts_with("markov_head.") || name.starts_with("confidence_head."))
      continue;
    const size_t begin = tensor.at("data_offsets").at(0), end = tensor.at("data_offsets").at(1);
    kept[name] = tensor;
    kept[name]["data_offsets"] = {data.size(), data.size() + (end - begin)};
    data += file.substr(8 + header_bytes + begin, end - begin);
  }
  const std::string text = kept.dump();
  const uint64_t length = text.size();
  std::ofstream(out / "model.safetensors", std::ios::binary)
      << std::string(reinterpret_cast<const char*>(&length), 8) << text << data;
}

}  // namespace tandem::testing
