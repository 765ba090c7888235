#include "common/kernels/cuda/device_matrix.h"

#include <algorithm>
#include <vector>

#include "common/base/status.h"
#include "common/kernels/half.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

constexpr int64_t kUploadBytes = 4 << 20;  // of one copy, about

}  // namespace

absl::StatusOr<DeviceMatrix> DeviceMatrix::Create(const Matrix& packed, Device& device) {
  TANDEM_CHECK(packed.type() == WeightType::kF32 || packed.type() == WeightType::kBF16);
  const bool is_f32 = packed.type() == WeightType::kF32;
  DeviceMatrix m;
  m.rows_ = packed.rows();
  m.cols_ = packed.cols();
  m.type_ = packed.type();
  const int64_t row_bytes = m.cols_ * (is_f32 ? 4 : 2);
  ASSIGN_OR_RETURN(m.data_, device.Allocate(m.rows_ * row_bytes));

  const int64_t rows_per_upload = std::clamp<int64_t>(kUploadBytes / row_bytes, 1, m.rows_);
  std::vector<float> rows(rows_per_upload * m.cols_);
  std::vector<uint16_t> halves(is_f32 ? 0 : rows.size());
  for (int64_t begin = 0; begin < m.rows_; begin += rows_per_upload) {
    const int64_t count = std::min(rows_per_upload, m.rows_ - begin);
    for (int64_t i = 0; i < count; ++i) {
      packed.DequantizeRow(begin + i, {&rows[i * m.cols_], static_cast<size_t>(m.cols_)});
    }
    if (!is_f32) std::transform(rows.begin(), rows.end(), halves.begin(), BF16FromFloat);  // exact
    const void* const from = is_f32 ? static_cast<const void*>(rows.data()) : halves.data();
    device.Upload(m.data_.data() + begin * row_bytes, from, count * row_bytes);
  }
  return m;
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
