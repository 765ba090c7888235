// What a drafter sees of the target: row = RmsNorm(fc * concat(taps)), for each position.
//
//   ASSIGN_OR_RETURN(auto projection, RowProjection::Create(hello_projection, hidden_size, 192, pool));
//   projection->Add(outputs.taps, token);   // for each position, while its taps are at hand (and in the
//   cache) projection->Project(rows);              // for all that were added: the weights are read once for
//   them
//
// A row depends on its own position's taps alone, bit for bit, whatever else is added with it.
// One thread calls at a time; Add and Project do not allocate.
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

  // Copies what it needs of `projection`; borrows `pool`. At most `max_rows` can wait. kInvalidArgument if
  // width, taps, fc and norm do not fit each other and `hidden_size`, or if a weight is not finite;
  // kResourceExhausted if memory is short.
  static absl::StatusOr<std::unique_ptr<RowProjection>> Create(const speculation::Projection& projection,
                                                               int32_t hidden_size, int32_t max_rows,
                                                               ThreadPool& pool,
                                                               Precision precision = Precision::kExact);

  int32_t width() const { return static_cast<int32_t>(fc_.rows()); }
  int64_t bytes() const { return fc_.bytes(); }

  // Keeps what row `token` of the taps will take part with. taps[i] [tokens, hidden_size], one for each of
  // the projection's and in their order. Requires num_waiting() < max_rows().
  void Add(std::span<const std::span<const float>> taps, int32_t token);
  int32_t num_waiting() const { return num_waiting_; }
  int32_t max_rows() const { return max_rows_; }
  // rows [num_waiting(), width] in the order in which they were added; then none waits.
  void Project(std::span<float> rows);

 private:
  RowProjection(const speculation::Projection& projection, int32_t hidden_size, int32_t max_rows,
                ThreadPool& pool, kernels::ActivationType activation_type);
  int32_t cols() const { return num_taps_ * hidden_size_; }

  // Constant after Create.
  ThreadPool& pool_;
  const int32_t hidden_size_, num_taps_, max_rows_;
  const float eps_;
  kernels::Matrix fc_;             // [width, taps * hidden_size]
  const std::vector<float> norm_;  // [width] or empty

  // What waits: for kExact the taps themselves, for kInt8 what is left of them, a quarter of the bytes.
  int32_t num_waiting_ = 0;
  WorkArea work_area_;  // kExact: the taps side by side [max_rows, taps * hidden_size]
  kernels::Activations input_;
  std::vector<std::span<const float>> parts_;  // of one row
};

}  // namespace tandem::models
