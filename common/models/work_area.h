// The activations of one step, allocated once for the largest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::models {

// One stretch of memory cut into arrays of floats, each aligned to 64 bytes. Not initialised: pages that no
// step has used take no memory.
class WorkArea {
 public:
  // Array i gets sizes[i] floats. kResourceExhausted with the size if the memory cannot be had.
  static absl::StatusOr<WorkArea> Create(const std::vector<int64_t>& sizes);

  float* array(int i) { return reinterpret_cast<float*>(data_.get() + offsets_[i]); }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };

  std::vector<int64_t> offsets_;  // bytes
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace tandem::models
