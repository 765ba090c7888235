// The packed weights of a decoder of the Llama line: Llama itself and Qwen3, which adds a norm per head of q
// and k.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/formats/checkpoint.h"
#include "common/kernels/matrix.h"
#include "common/models/model.h"

namespace tandem::models {

struct DecoderLayerWeights {
  std::vector<float> attention_norm;  // [H]
  kernels::Matrix q, k, v;            // [heads * head_dim, H], kv: [kv_heads * head_dim, H]
  std::vector<float> q_norm, k_norm;  // [head_dim], empty where the family has none
  kernels::Matrix o;                  // [H, heads * head_dim]

  std::vector<float> feed_forward_norm;  // [H]
  kernels::Matrix gate, up;              // [I, H]
  kernels::Matrix down;                  // [H, I]
};

struct DecoderWeights {
  kernels::Matrix embedding;  // [V, H]
  std::vector<DecoderLayerWeights> layers;
  std::vector<float> final_norm;  // [H]
  kernels::Matrix untied_head;    // [V, H]; empty where the embedding serves
  bool tied = false;

  std::string type_names;  // of the matrices, as WeightTypeSet writes them
  int64_t bytes = 0;

  const kernels::Matrix& head() const { return tied ? embedding : untied_head; }

  // Reads and packs everything; rows of q and k are brought into the order of pairs (j, j + head_dim/2).
  // Errors name file and tensor.
  static absl::StatusOr<DecoderWeights> Load(const formats::Checkpoint& checkpoint,
                                             const ModelOptions& options, ThreadPool& pool);
};

}  // namespace tandem::models
