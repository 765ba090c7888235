#include "drafter/models/token_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/status.h"
#include "common/formats/quoted.h"
#include "common/kernels/half.h"

namespace tandem::drafter {
namespace {

using formats::DType;

constexpr int64_t kLanes = 16;

template <typename T>
T Load(const std::byte* row, int64_t c) {
  T value;
  std::memcpy(&value, row + c * sizeof(T), sizeof(T));
  return value;
}

struct LoadF32 {
  float operator()(const std::byte* row, int64_t c) const { return Load<float>(row, c); }
};
struct LoadBF16 {
  float operator()(const std::byte* row, int64_t c) const {
    return kernels::FloatFromBF16(Load<uint16_t>(row, c));
  }
};
struct LoadInt8 {
  float operator()(const std::byte* row, int64_t c) const { return Load<int8_t>(row, c); }
};

// Calls f with the reader of the type's values.
template <typename F>
auto WithLoader(DType dtype, const F& f) {
  if (dtype == DType::kF32) return f(LoadF32());
  if (dtype == DType::kBF16) return f(LoadBF16());
  TANDEM_CHECK(dtype == DType::kI8);
  return f(LoadInt8());
}

template <typename Loader>
float DotLanes(const Loader& load, const std::byte* row, const float* x, int64_t cols) {
  float lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= cols; c += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += load(row, c + j) * x[c + j];
  }
  for (int64_t j = 0; c + j < cols; ++j) lanes[j] += load(row, c + j) * x[c + j];
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace

absl::StatusOr<TokenRows> TokenRows::Read(const DraftTensor& tensor, std::span<const int32_t> source_rows) {
  TokenRows table;
  table.dtype_ = tensor.values.dtype;
  table.rows_ = source_rows.empty() ? tensor.values.num_rows() : static_cast<int64_t>(source_rows.size());
  table.cols_ = tensor.values.row_elements();
  const int64_t row_bytes = tensor.values.row_bytes();
  table.data_.resize(table.rows_ * row_bytes);
  std::vector<float> row(table.cols_);
  for (int64_t r = 0; r < table.rows_; ++r) {
    const int64_t source = source_rows.empty() ? r : source_rows[r];
    std::memcpy(table.data_.data() + r * row_bytes, tensor.values.row(source).data(), row_bytes);
    if (tensor.is_int8()) table.row_scales_.push_back(tensor.row_scales[source]);
    tensor.DequantizeRow(source, row);
    if (!std::all_of(row.begin(), row.end(), [](float v) { return std::isfinite(v); })) {
      return InvalidArgument("tensor {}: row {} has weights that are not finite",
                             formats::Quoted(tensor.values.name), source);
    }
  }
  return table;
}

void TokenRows::Row(int64_t r, std::span<float> out) const {
  TANDEM_CHECK(r >= 0 && r < rows_ && static_cast<int64_t>(out.size()) == cols_);
  const std::byte* const row = data_.data() + r * (static_cast<int64_t>(data_.size()) / rows_);
  const float scale = row_scales_.empty() ? 1.0f : row_scales_[r];
  WithLoader(dtype_, [&](const auto& load) {
    for (int64_t c = 0; c < cols_; ++c) out[c] = scale * load(row, c);
  });
}

float TokenRows::Dot(int64_t r, std::span<const float> x) const {
  TANDEM_CHECK(r >= 0 && r < rows_ && static_cast<int64_t>(x.size()) == cols_);
  const std::byte* const row = data_.data() + r * (static_cast<int64_t>(data_.size()) / rows_);
  const float scale = row_scales_.empty() ? 1.0f : row_scales_[r];
  return scale * WithLoader(dtype_, [&](const auto& load) { return DotLanes(load, row, x.data(), cols_); });
}

}  // namespace tandem::drafter
