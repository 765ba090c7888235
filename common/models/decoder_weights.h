// The packed weights of a decoder (decoder.h). What a family has not (formats::FamilyTraits) is empty.
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

// head_dim, KV heads and I are the layer's own.
struct DecoderLayerWeights {
  std::vector<float> attention_norm;          // [H]
  kernels::Matrix q, k, v;                    // [heads * head_dim, H], kv: [kv_heads * head_dim, H]; k and v
                                              // empty if the layer reads another's, v if it is k
  std::vector<float> q_bias, k_bias, v_bias;  // a value for each row of q, k, v
  std::vector<float> q_norm, k_norm;          // [head_dim]
  kernels::Matrix o;                          // [H, heads * head_dim]
  std::vector<float> post_attention_norm;     // [H]

  std::vector<float> feed_forward_norm;       // [H]
  kernels::Matrix gate, up;                   // [I, H]
  kernels::Matrix down;                       // [H, I]
  std::vector<float> post_feed_forward_norm;  // [H]

  float scalar = 1;  // of the layer's output
};

struct DecoderWeights {
  kernels::Matrix embedding;  // [V, H]
  std::vector<DecoderLayerWeights> layers;
  std::vector<float> final_norm;  // [H]
  kernels::Matrix untied_head;    // [V, H]; empty where the embedding serves
  bool tied = false;

  bool quantised = false;  // any of the matrices
  std::string type_names;  // of the matrices, as WeightTypeSet writes them
  int64_t bytes = 0;

  const kernels::Matrix& head() const { return tied ? embedding : untied_head; }

  // Reads and packs everything; rows of q and k are brought into the order of pairs (j, j + head_dim/2),
  // norms are what x is multiplied with. Errors name file and tensor.
  static absl::StatusOr<DecoderWeights> Load(const formats::Checkpoint& checkpoint,
                                             const ModelOptions& options, ThreadPool& pool);
};

}  // namespace tandem::models
