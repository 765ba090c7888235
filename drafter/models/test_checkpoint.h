// A draft checkpoint taken apart, changed and written again, for tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/formats/safetensors.h"
#include "common/formats/test_files.h"
#include "tests/support/golden.h"

namespace tandem::drafter {

class TestCheckpoint {
 public:
  struct Tensor {
    std::string dtype;  // as safetensors spells it
    std::vector<int64_t> shape;
    std::string bytes;
  };

  explicit TestCheckpoint(const std::filesystem::path& directory) {
    config = nlohmann::json::parse(testing::ReadFile(directory / "config.json"));
    const auto file = formats::SafetensorsFile::OpenDirectory(directory);
    if (!file.ok()) {
      ADD_FAILURE() << file.status();
      return;
    }
    for (const auto& [name, tensor] : (*file)->tensors()) {
      tensors[name] = {formats::DTypeName(tensor.dtype), tensor.shape,
                       std::string(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size())};
    }
  }

  static std::string Safetensors(const std::map<std::string, Tensor>& tensors) {
    nlohmann::json header = nlohmann::json::object();
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      header[name] = {{"dtype", tensor.dtype},
                      {"shape", tensor.shape},
                      {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
      data += tensor.bytes;
    }
    const std::string text = header.dump();
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + text + data;
  }

  template <typename T>
  static Tensor Make(const std::string& dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
    return {dtype, std::move(shape),
            std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
  }

  // Of a bf16 or f32 tensor.
  std::vector<float> Floats(const std::string& name) const {
    const Tensor& tensor = tensors.at(name);
    const auto dtype = tensor.dtype == "BF16" ? formats::DType::kBF16 : formats::DType::kF32;
    std::vector<float> values(tensor.bytes.size() / (tensor.dtype == "BF16" ? 2 : 4));
    formats::Dequantize(dtype, std::as_bytes(std::span(tensor.bytes)), values);
    return values;
  }

  // All matrices become int8 with a scale per row.
  void QuantiseMatrices() {
    config["tandem_format"] = 1;
    std::map<std::string, Tensor> scales;
    for (auto& [name, tensor] : tensors) {
      if (tensor.shape.size() != 2) continue;
      const std::vector<float> values = Floats(name);
      const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
      std::vector<float> row_scales;
      std::vector<int8_t> quants;
      for (int64_t r = 0; r < rows; ++r) {
        float largest = 1e-6f;
        for (int64_t c = 0; c < cols; ++c) largest = std::max(largest, std::abs(values[r * cols + c]));
        row_scales.push_back(largest / 127);
        for (int64_t c = 0; c < cols; ++c) {
          quants.push_back(static_cast<int8_t>(std::lround(values[r * cols + c] / row_scales.back())));
        }
      }
      tensor = Make("I8", tensor.shape, quants);
      scales[name + ".scale"] = Make("F32", {rows}, row_scales);
    }
    tensors.merge(scales);
  }

  // Only rows `rows` of a matrix.
  void KeepRows(const std::string& name, const std::vector<int32_t>& rows) {
    Tensor& tensor = tensors.at(name);
    const size_t row_bytes = tensor.bytes.size() / tensor.shape[0];
    std::string bytes;
    for (const int32_t row : rows) bytes += tensor.bytes.substr(row * row_bytes, row_bytes);
    tensor.shape[0] = static_cast<int64_t>(rows.size());
    tensor.bytes = bytes;
  }

  // The drafts' vocabulary becomes `ids`, in this order, under the convention target id = i + d2t[i].
  void ReduceVocabulary(const std::vector<int32_t>& ids) {
    config["draft_vocab_size"] = ids.size();
    std::vector<int64_t> offsets;
    for (size_t i = 0; i < ids.size(); ++i) offsets.push_back(ids[i] - static_cast<int64_t>(i));
    tensors["d2t"] = Make("I64", {static_cast<int64_t>(ids.size())}, offsets);
    for (const char* const name : {"lm_head.weight", "markov_head.markov_w2.weight"}) {
      if (tensors.contains(name)) KeepRows(name, ids);
    }
  }

  // Into a directory of its own that lives as long as this.
  std::string Write() {
    directory_.Write("config.json", config.dump());
    directory_.Write("model.safetensors", Safetensors(tensors));
    return directory_.path();
  }
  void WriteFile(const std::string& name, const std::string& content) { directory_.Write(name, content); }

  nlohmann::json config;
  std::map<std::string, Tensor> tensors;

 private:
  formats::TestDirectory directory_;
};

}  // namespace tandem::drafter
