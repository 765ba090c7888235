// Reader for GGUF v2 and v3, little-endian.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/tensor.h"

namespace tandem::formats {

// One metadata value. Integers are widened to 64 bits, floats to double; arrays are homogeneous.
using GgufValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<int64_t>,
                               std::vector<double>, std::vector<std::string>, std::vector<bool>>;

// Memory-mapped; views borrow. Immutable after Open.
class GgufFile {
 public:
  // Refuses (kInvalidArgument, naming file and reason): anything whose lengths, counts, types, dimensions,
  // alignment or offsets do not fit the file. Nothing is allocated from a claimed size before it is checked
  // against the file's.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  virtual ~GgufFile() = default;

  virtual const std::map<std::string, GgufValue>& metadata() const = 0;
  virtual const std::map<std::string, TensorView>& tensors() const = 0;  // by the file's own names

  // Typed look-ups: kNotFound if absent, kInvalidArgument if of another type (any integer type fits GetInt).
  absl::StatusOr<int64_t> GetInt(const std::string& key) const;
  absl::StatusOr<double> GetFloat(const std::string& key) const;
  absl::StatusOr<std::string> GetString(const std::string& key) const;
  absl::StatusOr<bool> GetBool(const std::string& key) const;
  // nullptr if absent or of another type.
  const std::vector<std::string>* GetStrings(const std::string& key) const;
  const std::vector<int64_t>* GetInts(const std::string& key) const;
  const std::vector<double>* GetFloats(const std::string& key) const;
};

}  // namespace tandem::formats
