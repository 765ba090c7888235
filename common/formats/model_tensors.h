// Which tensors a model of a given configuration consists of, under both naming schemes.
#pragma once

#include <string>
#include <vector>

#include "common/formats/model_config.h"

namespace tandem::formats {

struct TensorSpec {
  std::string name;       // Hugging Face: "model.layers.3.mlp.up_proj.weight"
  std::string gguf_name;  // "blk.3.ffn_up.weight"
  std::vector<int64_t> shape;
};

// All of them, and no others; lm_head only where it is not tied to the embedding.
std::vector<TensorSpec> ModelTensors(const ModelConfig& config);

}  // namespace tandem::formats
