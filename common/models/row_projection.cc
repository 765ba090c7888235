#include "common/models/row_projection.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/status.h"
#include "common/formats/tensor.h"
#include "common/kernels/elementwise.h"
#include "common/kernels/half.h"

namespace tandem::models {
namespace {

absl::Status Check(const speculation::Projection& projection, int32_t hidden_size) {
  const auto width = static_cast<uint64_t>(projection.width);
  if (projection.width < 1 || projection.taps.empty()) {
    return InvalidArgument("projection: width {} of {} taps, both must be at least 1", projection.width,
                           projection.taps.size());
  }
  const uint64_t cols = projection.taps.size() * static_cast<uint64_t>(hidden_size);
  if (projection.fc.size() % cols != 0 || projection.fc.size() / cols != width) {
    return InvalidArgument("projection: fc has {} values, expected {} rows of {} taps of {}",
                           projection.fc.size(), projection.width, projection.taps.size(), hidden_size);
  }
  if (projection.norm.empty()) return absl::OkStatus();
  if (projection.norm.size() != width) {
    return InvalidArgument("projection: norm has {} values, the width is {}", projection.norm.size(),
                           projection.width);
  }
  if (!std::isfinite(projection.norm_eps) || projection.norm_eps <= 0) {
    return InvalidArgument("projection: norm_eps is {}, it must be finite and above 0", projection.norm_eps);
  }
  const bool finite =
      std::all_of(projection.norm.begin(), projection.norm.end(), [](float w) { return std::isfinite(w); });
  return finite ? absl::OkStatus() : InvalidArgument("projection: norm has weights that are not finite");
}

bool FitsBF16(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(),
                     [](float v) { return kernels::FloatFromBF16(kernels::BF16FromFloat(v)) == v; });
}

}  // namespace

RowProjection::RowProjection(const speculation::Projection& projection, int32_t hidden_size, int32_t max_rows,
                             ThreadPool& pool, kernels::ActivationType activation_type)
    : pool_(pool),
      hidden_size_(hidden_size),
      num_taps_(static_cast<int32_t>(projection.taps.size())),
      max_rows_(max_rows),
      eps_(projection.norm_eps),
      norm_(projection.norm),
      input_(max_rows, cols(), activation_type) {
  parts_.reserve(num_taps_);
  if (activation_type == kernels::ActivationType::kInt8) input_.Begin(cols());
}

absl::StatusOr<std::unique_ptr<RowProjection>> RowProjection::Create(
    const speculation::Projection& projection, int32_t hidden_size, int32_t max_rows, ThreadPool& pool,
    Precision precision) {
  TANDEM_CHECK(hidden_size > 0 && max_rows > 0);
  RETURN_IF_ERROR(Check(projection, hidden_size));
  const int64_t cols = static_cast<int64_t>(projection.taps.size()) * hidden_size;
  const bool int8 = precision == Precision::kInt8 && hidden_size % kernels::kBlockColumns == 0;
  std::unique_ptr<RowProjection> result(
      new RowProjection(projection, hidden_size, max_rows, pool,
                        int8 ? kernels::ActivationType::kInt8 : kernels::ActivationType::kF32));
  const formats::TensorView view = {
      "fc", formats::DType::kF32, {projection.width, cols}, std::as_bytes(std::span(projection.fc))};
  // Most drafters are stored in bf16; half the bytes, the same numbers.
  auto type = FitsBF16(projection.fc) ? kernels::WeightType::kBF16 : kernels::WeightType::kF32;
  if (int8) type = kernels::WeightType::kInt8;
  ASSIGN_OR_RETURN(result->fc_, kernels::Matrix::Pack(view, {.type = type, .pool = &pool}));
  ASSIGN_OR_RETURN(result->work_area_, WorkArea::Create({int8 ? 0 : max_rows * cols}));
  return result;
}

void RowProjection::Add(std::span<const std::span<const float>> taps, int32_t token) {
  TANDEM_CHECK(static_cast<int32_t>(taps.size()) == num_taps_ && token >= 0 && num_waiting_ < max_rows_);
  parts_.clear();
  for (const auto tap : taps) {
    TANDEM_CHECK(static_cast<int64_t>(tap.size()) >= int64_t{token + 1} * hidden_size_);
    parts_.push_back(tap.subspan(static_cast<size_t>(token) * hidden_size_, hidden_size_));
  }
  if (input_.type() == kernels::ActivationType::kInt8) {
    input_.Append(parts_);
  } else {
    float* features = work_area_.array(0) + int64_t{num_waiting_} * cols();
    for (const auto part : parts_) features = std::copy(part.begin(), part.end(), features);
  }
  ++num_waiting_;
}

void RowProjection::Project(std::span<float> rows) {
  TANDEM_CHECK(static_cast<int64_t>(rows.size()) >= int64_t{num_waiting_} * width());
  if (num_waiting_ == 0) return;
  const bool int8 = input_.type() == kernels::ActivationType::kInt8;
  if (!int8) {
    const std::span features(work_area_.array(0), static_cast<size_t>(num_waiting_) * cols());
    input_.Load(features, num_waiting_, cols(), pool_);
  }
  kernels::Gemm(input_, fc_, rows.data(), width(), pool_);
  if (!norm_.empty()) kernels::RmsNorm(rows.data(), norm_, eps_, num_waiting_, rows.data(), pool_);
  if (int8) input_.Begin(cols());
  num_waiting_ = 0;
}

}  // namespace tandem::models
