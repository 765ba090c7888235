// What a drafter sees of the target: row = RmsNorm(fc * concat(taps)), for each position.
//
//   ASSIGN_OR_RETURN(auto projection, RowProjection::Create(hello_projection, hidden_size, 512, pool));
//   projection->Project(outputs.taps, num_tokens, rows);
//
// A row depends on its own position's taps alone, bit for bit, whatever else is in the call.
// One thread calls at a time; Project does not allocate.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/kernels/gemm.h"
#include "common/kernels/matrix.h"
#include "common/models/work_area.h"
#include "common/speculation/messages.h"

namespace tandem::models {

class RowProjection {
 public:
  // kExact: in f32. kInt8: weights and taps rounded to int8 per 32 columns, where the size allows; a quarter
  // of the bytes to read, at the cost of some acceptance at most.
  enum class Precision { kExact, kInt8 };

  // Copies what it needs of `projection`; borrows `pool`. `max_tokens` sizes the work area, larger calls are
  // cut. kInvalidArgument if width, taps, fc and norm do not fit each other and `hidden_size`, or if a weight
  // is not finite; kResourceExhausted if memory is short.
  static absl::StatusOr<std::unique_ptr<RowProjection>> Create(const speculation::Projection& projection,
                                                               int32_t hidden_size, int32_t max_tokens,
                                                               ThreadPool& pool,
                                                               Precision precision = Precision::kExact);

  int32_t width() const { return static_cast<int32_t>(fc_.rows()); }
  int64_t bytes() const { return fc_.bytes(); }

  // taps[i] [tokens, hidden_size], one for each of the projection's and in their order; rows [tokens, width].
  void Project(std::span<const std::span<const float>> taps, int32_t tokens, std::span<float> rows);

 private:
  RowProjection(const speculation::Projection& projection, int32_t hidden_size, int32_t max_tokens,
                ThreadPool& pool, kernels::ActivationType activation_type);
  void ProjectPiece(std::span<const std::span<const float>> taps, int32_t first, int32_t tokens, float* rows);

  // Constant after Create.
  ThreadPool& pool_;
  const int32_t hidden_size_, num_taps_, max_tokens_;
  const float eps_;
  kernels::Matrix fc_;             // [width, taps * hidden_size]
  const std::vector<float> norm_;  // [width] or empty

  // Overwritten by every Project.
  WorkArea work_area_;  // the taps side by side [max_tokens, taps * hidden_size]
  kernels::Activations input_;
};

}  // namespace tandem::models
