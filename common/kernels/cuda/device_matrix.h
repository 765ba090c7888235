// Weights of one linear layer on the device: row-major [rows, cols], f32 or bf16. Immutable after Create.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/kernels/cuda/device.h"
#include "common/kernels/matrix.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

class DeviceMatrix {
 public:
  // What `packed`, of type f32 or bf16, holds. kResourceExhausted with the size.
  static absl::StatusOr<DeviceMatrix> Create(const Matrix& packed, Device& device);

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  WeightType type() const { return type_; }
  int64_t bytes() const { return data_.bytes(); }
  const float* f32() const { return data_.as<const float>(); }
  const uint16_t* bf16() const { return data_.as<const uint16_t>(); }

 private:
  int64_t rows_ = 0, cols_ = 0;
  WeightType type_ = WeightType::kF32;
  DeviceBuffer data_;
};

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
