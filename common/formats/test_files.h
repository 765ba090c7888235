// Files that tests make: safetensors of given shapes in a directory of their own, GGUF contents in memory.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "common/formats/gguf_parser.h"

namespace tandem::formats {

// A fresh directory, removed at the end.
class TestDirectory {
 public:
  TestDirectory() {
    std::string name = ::testing::TempDir() + "/formats_XXXXXX";
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << name;
    path_ = name;
  }
  ~TestDirectory() { std::filesystem::remove_all(path_); }
  TestDirectory(const TestDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
  }

 private:
  std::filesystem::path path_;
};

struct TestTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype = "F32";  // of four bytes
};

// A whole file; element bytes are all `fill`.
inline std::string SafetensorsText(const std::vector<TestTensor>& tensors, char fill = 0) {
  nlohmann::json header = nlohmann::json::object();
  int64_t offset = 0;
  for (const TestTensor& tensor : tensors) {
    int64_t bytes = 4;
    for (const int64_t size : tensor.shape) bytes *= size;
    header[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text + std::string(offset, fill);
}

// A GGUF file that never was one.
class MemoryGguf : public GgufFile {
 public:
  explicit MemoryGguf(GgufContents contents) : contents_(std::move(contents)) {}
  const std::map<std::string, GgufValue>& metadata() const override { return contents_.metadata; }
  const std::map<std::string, TensorView>& tensors() const override { return contents_.tensors; }

 private:
  const GgufContents contents_;
};

}  // namespace tandem::formats
