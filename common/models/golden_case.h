// Golden cases that hold a model, found by walking.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/formats/checkpoint.h"
#include "common/formats/safetensors.h"
#include "tests/support/golden.h"

namespace tandem::models {

struct GoldenCase {
  std::string name;                // "llama_tied", "llama.gguf"
  std::filesystem::path model;     // what Checkpoint::Open takes
  std::filesystem::path expected;  // expected.safetensors
};

inline void PrintTo(const GoldenCase& c, std::ostream* os) { *os << c.name; }

inline std::vector<GoldenCase> DirectoryCases() {
  std::vector<GoldenCase> cases;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(testing::GoldenDir() / "targets", error)) {
    if (!entry.is_directory()) continue;
    cases.push_back({entry.path().filename(), entry.path(), entry.path() / "expected.safetensors"});
  }
  return cases;
}

inline std::vector<GoldenCase> GgufCases() {
  std::vector<GoldenCase> cases;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(testing::GoldenDir() / "gguf", error)) {
    if (entry.path().extension() != ".gguf") continue;
    cases.push_back({entry.path().filename(), entry.path(),
                     std::filesystem::path(entry.path()).replace_extension(".expected.safetensors")});
  }
  return cases;
}

inline std::vector<GoldenCase> AllCases() {
  std::vector<GoldenCase> cases = DirectoryCases();
  for (GoldenCase& c : GgufCases()) cases.push_back(std::move(c));
  std::sort(cases.begin(), cases.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return cases;
}

// Null after a failure.
inline std::unique_ptr<formats::Checkpoint> OpenCase(const GoldenCase& c) {
  auto checkpoint = formats::Checkpoint::Open(c.model);
  if (!checkpoint.ok()) {
    ADD_FAILURE() << checkpoint.status();
    return nullptr;
  }
  return *std::move(checkpoint);
}

// The arrays of an expected.safetensors.
class ExpectedTensors {
 public:
  explicit ExpectedTensors(const std::filesystem::path& path) {
    auto file = formats::SafetensorsFile::Open(path);
    if (!file.ok()) {
      ADD_FAILURE() << file.status();
      return;
    }
    file_ = *std::move(file);
  }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    if (file_ == nullptr) return names;
    for (const auto& [name, tensor] : file_->tensors()) names.push_back(name);
    return names;
  }
  bool Has(const std::string& name) const { return file_ != nullptr && file_->tensors().contains(name); }
  std::vector<float> Floats(const std::string& name) const {
    return Values<float>(name, formats::DType::kF32);
  }
  std::vector<int32_t> Ints(const std::string& name) const {
    return Values<int32_t>(name, formats::DType::kI32);
  }

 private:
  template <typename T>
  std::vector<T> Values(const std::string& name, formats::DType dtype) const {
    if (!Has(name) || file_->tensors().at(name).dtype != dtype) {
      ADD_FAILURE() << "no tensor " << name << " of type " << formats::DTypeName(dtype);
      return {};
    }
    const auto data = file_->tensors().at(name).data;
    std::vector<T> values(data.size() / sizeof(T));
    std::memcpy(values.data(), data.data(), data.size());
    return values;
  }

  std::unique_ptr<formats::SafetensorsFile> file_;
};

}  // namespace tandem::models
