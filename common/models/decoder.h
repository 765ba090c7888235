// The decoder of the Llama line on the CPU. For a row x of the residual stream, layer by layer:
//
//   a = RmsNorm(x);  q, k, v = Wq a, Wk a, Wv a      Qwen3: RmsNorm of each head of q and k
//   q, k = Rope(q), Rope(k);  K, V of this position = k, v
//   x = x + Wo Attention(q, K, V)                    scores scaled by head_dim^-0.5
//   f = RmsNorm(x);  x = x + Wdown (silu(Wgate f) * (Wup f))
//
// and logits = Whead RmsNorm(x), for the rows that want them.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/kernels/gemm.h"
#include "common/models/decoder_weights.h"
#include "common/models/model.h"
#include "common/models/rope_tables.h"
#include "common/models/work_area.h"

namespace tandem::models {

class Decoder : public Model {
 public:
  // `options.max_positions` has been resolved and all options are within their limits.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(const formats::Checkpoint& checkpoint,
                                                         const ModelOptions& options, ThreadPool& pool);

  const formats::ModelConfig& config() const override { return config_; }
  kernels::KvLayout kv_layout() const override { return kv_layout_; }
  const ModelOptions& options() const override { return options_; }
  std::string NumericsId() const override;
  int64_t WeightBytes() const override { return weights_.bytes; }
  void Forward(const Batch& batch, kernels::KvCache& cache, Outputs& outputs) override;

 private:
  // Views into the work area; S = max_step_tokens.
  struct Buffers {
    float* x;         // [S, H] residual stream
    float* normed;    // [S, H]
    float* q;         // [S, heads * head_dim]
    float* k;         // [S, kv_heads * head_dim]
    float* v;         // [S, kv_heads * head_dim]
    float* attended;  // [S, heads * head_dim]
    float* gate;      // [S, I]
    float* up;        // [S, I]
    float* branch;    // [S, H] what a branch adds to x
    float* last;      // [max_logits_rows, H]
    float* logits;    // [max_logits_rows, V]
    float* taps;      // [max_taps, S, H]
  };

  Decoder(const formats::ModelConfig& config, const ModelOptions& options, ThreadPool& pool);

  absl::Status Allocate();
  void CheckBatch(const Batch& batch, const kernels::KvCache& cache) const;
  void AttentionBranch(int layer, const Batch& batch, kernels::KvCache& cache);
  void FeedForwardBranch(int layer, const Batch& batch);
  // Rounds x [tokens, cols] to the activation type, for the products that follow.
  void LoadInput(const float* x, int tokens, int cols);
  void Tap(int layer, const Batch& batch, Outputs& outputs);
  void Logits(const Batch& batch, Outputs& outputs);

  // Constant after Create.
  const formats::ModelConfig config_;
  const ModelOptions options_;
  ThreadPool& pool_;
  const int hidden_, heads_, kv_heads_, head_dim_, intermediate_, vocab_;
  const kernels::KvLayout kv_layout_;
  DecoderWeights weights_;
  RopeTables rope_;

  // Overwritten by every Forward.
  WorkArea work_area_;
  Buffers buffers_ = {};
  std::unique_ptr<kernels::Activations> input_;  // of the next products
};

}  // namespace tandem::models
