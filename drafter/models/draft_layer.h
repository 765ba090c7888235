// The arithmetic of one draft layer, in named steps that DSpark and Eagle3 put together. For rows x and their
// attention input a (DSpark: RmsNorm(x); Eagle3: embedding and hidden state, each normed, side by side):
//
//   k, v = Wk a, Wv a;  k = Rope(RmsNormHeads(k));  K, V of these positions = k, v
//   q = Rope(RmsNormHeads(Wq a));  h = Wo Attention(q, K, V);  x = x + h
//   f = RmsNorm(x);  h = Wdown (act(Wgate f) * (Wup f));  x = x + h
//
// In Gemma4's style v is divided by the rms of each head, and may be what Wk gives; h goes through a norm
// before it is added; x is multiplied with the layer's scalar in the end; act is gelu instead of silu.
//
// One thread calls at a time; nothing here allocates.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/formats/model_config.h"
#include "common/kernels/attention.h"
#include "common/kernels/gemm.h"
#include "common/models/rope_tables.h"
#include "common/models/work_area.h"
#include "drafter/models/draft_weights.h"

namespace tandem::drafter {

// The rows of a call: of several sequences, flattened. Reused between calls.
struct DraftRows {
  std::vector<int32_t> positions;  // [rows]
  std::vector<kernels::SequenceRows> sequences;

  int32_t count() const { return static_cast<int32_t>(positions.size()); }
  void Clear();
  // `whole_block`: each row sees all of them.
  void Add(std::span<const int32_t> blocks, int32_t first_position, int32_t num_rows, bool whole_block);
};

class DraftLayerPass {
 public:
  // For at most `max_rows` rows at positions below `max_positions`, with inputs of at most `max_cols` columns
  // beside those that the shape implies. Borrows `pool`.
  static absl::StatusOr<std::unique_ptr<DraftLayerPass>> Create(const formats::ModelConfig& shape,
                                                                kernels::ActivationType activation_type,
                                                                int64_t max_rows, int64_t max_cols,
                                                                int64_t max_positions, ThreadPool& pool);

  // Rounds x [rows, cols] to the activation type: the input of the products that follow, here or outside.
  const kernels::Activations& LoadInput(const float* x, int32_t rows, int64_t cols);

  // From the loaded input: K and V of the rows alone.
  void WriteKeysAndValues(const DraftLayerWeights& w, int layer, const DraftRows& rows, kernels::KvCache& kv);
  // From the loaded input: K, V and attention of the rows, added to x [rows, H].
  void AttentionBranch(const DraftLayerWeights& w, int layer, const DraftRows& rows, kernels::KvCache& kv,
                       float* x);
  // The same without K and V, which are there already.
  void AttentionBranchOverWritten(const DraftLayerWeights& w, int layer, const DraftRows& rows,
                                  const kernels::KvCache& kv, float* x);
  void FeedForwardBranch(const DraftLayerWeights& w, int32_t rows, float* x);

 private:
  // Views into the work area; R = max_rows.
  struct Buffers {
    float* q;         // [R, heads * head_dim]
    float* k;         // [R, kv_heads * head_dim]
    float* v;         // [R, kv_heads * head_dim]
    float* attended;  // [R, heads * head_dim]
    float* normed;    // [R, H]
    float* gate;      // [R, I]
    float* up;        // [R, I]
    float* branch;    // [R, H] what a branch adds to x
  };

  DraftLayerPass(const formats::ModelConfig& shape, ThreadPool& pool);

  // Of k and v as projected: norms and Rope, then into the cache.
  void StoreKeysAndValues(const DraftLayerWeights& w, int layer, const DraftRows& rows, kernels::KvCache& kv);
  void Attend(const DraftLayerWeights& w, int layer, const DraftRows& rows, const kernels::KvCache& kv,
              float* x);
  // x += the branch, behind its norm if it has one.
  void AddBranch(const std::vector<float>& post_norm, int32_t rows, float* x);

  // Constant after Create.
  ThreadPool& pool_;
  const int hidden_, heads_, kv_heads_, head_dim_, intermediate_;
  const float eps_, attention_scale_;
  const bool value_is_key_, gelu_;
  const std::vector<float> ones_;  // [head_dim], for the norm of values, which has no weights; empty: none
  models::RopeTables rope_;

  // Overwritten by every call.
  models::WorkArea work_area_;
  Buffers buffers_ = {};
  std::unique_ptr<kernels::Activations> input_;
};

}  // namespace tandem::drafter
