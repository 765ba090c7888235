// The decoder of all families on the CPU. For a row x of the residual stream, layer by layer, with what not
// every family has in brackets (formats::FamilyTraits):
//
//   a = RmsNorm(x);  q, k, v = Wq a, Wk a, Wv a [+ biases]
//   [q, k = RmsNorm of each of their heads;  v = v / rms of each head]
//   q, k = Rope(q), Rope(k);  K, V of this position = k, v
//   h = Wo Attention(q, K, V);  x = x + [RmsNorm](h)
//   f = RmsNorm(x);  h = Wdown (act(Wgate f) * (Wup f));  x = x + [RmsNorm](h)     act: silu or gelu
//   [x = x * scalar of the layer]
//
// and logits = Whead RmsNorm(x) [soft-capped], for the rows that want them. Layers are of two kinds, which
// may differ in heads and rotary embedding: those that see all positions before theirs, and those that see a
// window of the last ones. A layer may read K and V of an earlier one instead of computing its own; k may be
// v (before norm and Rope).
//
// Layers with a window keep K and V of all positions, too: blocks, prefix cache and preemption then need not
// know of windows, at the price of memory (of Gemma3's 270M, 15 layers of 18 could do with 512 positions).
// Attention reads only what the window holds.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

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
  // One kind of layers.
  struct Attention {
    int kv_heads = 0, head_dim = 0;
    int q_width = 0, kv_width = 0;  // of all heads
    int32_t window = 0;             // 0 = none
    bool value_is_key = false;
    RopeTables rope;
    std::vector<float> ones;  // [head_dim], for the norm of values, which has no weights
  };

  // Views into the work area; S = max_step_tokens. Heads and I are those of the widest layer.
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
  // The tables, for the kinds that occur.
  absl::Status MakeAttentions();
  const Attention& AttentionOf(int layer) const {
    return config_.layers[layer].sliding ? sliding_attention_ : attention_;
  }
  void AttentionBranch(int layer, const Batch& batch, kernels::KvCache& cache);
  // q, k and v of the loaded input.
  void Project(int layer, int tokens);
  // Norms and Rope; K and V into the cache.
  void WriteKeysAndValues(int layer, const Batch& batch, kernels::KvCache& cache);
  void FeedForwardBranch(int layer, const Batch& batch);
  // x += the branch, behind its norm if it has one.
  void AddBranch(const std::vector<float>& post_norm, int tokens);
  // Rounds x [tokens, cols] to the activation type, for the products that follow.
  void LoadInput(const float* x, int tokens, int cols);
  void Tap(int layer, const Batch& batch, Outputs& outputs);
  void Logits(const Batch& batch, Outputs& outputs);
  // What the products of `tokens` rows with these matrices have to read and to compute.
  static StageWork ProductWork(std::initializer_list<const kernels::Matrix*> matrices, int64_t tokens);
  // What a layer's attention has to, at most (a window is not looked at).
  StageWork AttentionWork(int layer, const Batch& batch) const;

  // Constant after Create.
  const formats::ModelConfig config_;
  const ModelOptions options_;
  ThreadPool& pool_;
  const int hidden_, heads_, vocab_;
  const kernels::KvLayout kv_layout_;
  std::vector<int> kv_layer_;  // of each layer, the layer of kv_layout_ that it reads
  DecoderWeights weights_;
  Attention attention_, sliding_attention_;

  // Overwritten by every Forward.
  WorkArea work_area_;
  Buffers buffers_ = {};
  std::unique_ptr<kernels::Activations> input_;  // of the next products
};

}  // namespace tandem::models
