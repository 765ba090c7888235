#include "common/models/row_projection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

RowProjection::RowProjection(const speculation::Projection& projection, int32_t hidden_size,
                             int32_t max_tokens, ThreadPool& pool, kernels::ActivationType activation_type)
    : pool_(pool),
      hidden_size_(hidden_size),
      num_taps_(static_cast<int32_t>(projection.taps.size())),
      max_tokens_(max_tokens),
      eps_(projection.norm_eps),
      norm_(projection.norm),
      input_(max_tokens, hidden_size * num_taps_, activation_type) {}

absl::StatusOr<std::unique_ptr<RowProjection>> RowProjection::Create(
    const speculation::Projection& projection, int32_t hidden_size, int32_t max_tokens, ThreadPool& pool,
    Precision precision) {
  TANDEM_CHECK(hidden_size > 0 && max_tokens > 0);
  RETURN_IF_ERROR(Check(projection, hidden_size));
  const int64_t cols = static_cast<int64_t>(projection.taps.size()) * hidden_size;
  const bool int8 = precision == Precision::kInt8 && cols % kernels::kBlockColumns == 0;
  std::unique_ptr<RowProjection> result(
      new RowProjection(projection, hidden_size, max_tokens, pool,
                        int8 ? kernels::ActivationType::kInt8 : kernels::ActivationType::kF32));
  const formats::TensorView view = {
      "fc", formats::DType::kF32, {projection.width, cols}, std::as_bytes(std::span(projection.fc))};
  // Most drafters are stored in bf16; half the bytes, the same numbers.
  auto type = FitsBF16(projection.fc) ? kernels::WeightType::kBF16 : kernels::WeightType::kF32;
  if (int8) type = kernels::WeightType::kInt8;
  ASSIGN_OR_RETURN(result->fc_, kernels::Matrix::Pack(view, {.type = type, .pool = &pool}));
  ASSIGN_OR_RETURN(result->work_area_, WorkArea::Create({max_tokens * cols}));
  return result;
}

void RowProjection::Project(std::span<const std::span<const float>> taps, int32_t tokens,
                            std::span<float> rows) {
  TANDEM_CHECK(static_cast<int32_t>(taps.size()) == num_taps_ && tokens >= 0);
  for (const auto tap : taps)
    TANDEM_CHECK(static_cast<int64_t>(tap.size()) >= int64_t{tokens} * hidden_size_);
  TANDEM_CHECK(static_cast<int64_t>(rows.size()) >= int64_t{tokens} * width());
  for (int32_t first = 0; first < tokens; first += max_tokens_) {
    ProjectPiece(taps, first, std::min(max_tokens_, tokens - first), rows.data() + int64_t{first} * width());
  }
}

void RowProjection::ProjectPiece(std::span<const std::span<const float>> taps, int32_t first, int32_t tokens,
                                 float* rows) {
  const int32_t cols = num_taps_ * hidden_size_;
  float* const features = work_area_.array(0);
  for (int32_t t = 0; t < tokens; ++t) {
    for (int32_t i = 0; i < num_taps_; ++i) {
      std::memcpy(features + int64_t{t} * cols + int64_t{i} * hidden_size_,
                  taps[i].data() + int64_t{first + t} * hidden_size_, hidden_size_ * sizeof(float));
    }
  }
  input_.Load({features, static_cast<size_t>(tokens) * cols}, tokens, cols, pool_);
  kernels::Gemm(input_, fc_, rows, width(), pool_);
  if (!norm_.empty()) kernels::RmsNorm(rows, norm_, eps_, tokens, rows, pool_);
}

}  // namespace tandem::models
