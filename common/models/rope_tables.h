// Cosines and sines of the rotary embedding, as kernels::Rope reads them.
//
// Inverse frequency of pair j: theta^(-2j / head_dim), 0 for pairs that do not turn, then the llama3 rule or
// the file's divisors, or divided by the linear factor. Angle at position p: the f32 product p *
// inverse_frequency, because that is the model's definition (transformers computes it so, and models were
// trained so; at position 8000 it differs from the exact product by up to 2e-4). Powers, cosines and sines
// are taken in double and rounded to f32.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/formats/model_config.h"

namespace tandem::models {

// [head_dim / 2] f32.
std::vector<float> InverseFrequencies(const formats::RopeConfig& rope, int64_t head_dim);

struct RopeTables {
  std::vector<float> cos, sin;  // [max_positions, head_dim / 2]

  // kResourceExhausted if the tables would take more than kMaxBytes or memory is short.
  static absl::StatusOr<RopeTables> Create(const formats::RopeConfig& rope, int64_t head_dim,
                                           int64_t max_positions, ThreadPool& pool);

  static constexpr int64_t kMaxBytes = int64_t{4} << 30;
};

}  // namespace tandem::models
