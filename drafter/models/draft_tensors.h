// The tensors of a draft checkpoint: which there must be, and how their values are stored.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/formats/tensor.h"
#include "drafter/models/draft_config.h"

namespace tandem::drafter {

struct DraftTensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  bool required = true;
};

// All that a checkpoint of this configuration may hold but for `t2d` and scales. Not required: what the
// compact form takes from the target.
std::vector<DraftTensorSpec> DraftTensors(const DraftConfig& config);

// One stored tensor: bf16, f32, or int8 with an f32 scale per row (x = scale * q). `values` borrows from the
// checkpoint.
struct DraftTensor {
  formats::TensorView values;
  std::vector<float> row_scales;  // int8 only

  bool is_int8() const { return values.dtype == formats::DType::kI8; }
  // out [row_elements] = row r in f32.
  void DequantizeRow(int64_t r, std::span<float> out) const;
};

}  // namespace tandem::drafter
