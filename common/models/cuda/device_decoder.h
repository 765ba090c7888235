// The decoder of decoder.h on a CUDA device, for Llama, Qwen2, Qwen3 and Gemma3: the same steps in the same
// order.
//
// Token ids go to the device, logits and tapped layers come back; the host samples. Weights are f32 or bf16,
// activations and KV likewise. Nothing is fused, and no step is a CUDA graph yet.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/kernels/cuda/attention.h"
#include "common/kernels/cuda/gemm.h"
#include "common/models/cuda/device_weights.h"
#include "common/models/model.h"

namespace tandem::models::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

// LoadModel's, with resolved options and a device. kUnimplemented names what the backend does not do.
absl::StatusOr<std::unique_ptr<Model>> LoadDeviceModel(const formats::Checkpoint& checkpoint,
                                                       const ModelOptions& options, ThreadPool& pool);

class DeviceDecoder : public Model {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceDecoder>> Create(const formats::Checkpoint& checkpoint,
                                                               const ModelOptions& options, ThreadPool& pool,
                                                               std::unique_ptr<Device> device);

  const formats::ModelConfig& config() const override { return config_; }
  kernels::KvLayout kv_layout() const override { return kv_layout_; }
  const ModelOptions& options() const override { return options_; }
  std::string NumericsId() const override;
  int64_t WeightBytes() const override { return weights_.bytes; }
  absl::StatusOr<std::unique_ptr<kernels::KvCache>> CreateKvCache(int num_blocks) const override;
  std::optional<int64_t> FreeDeviceBytes() const override { return device_->FreeBytes(); }
  void Forward(const Batch& batch, kernels::KvCache& cache, Outputs& outputs) override;

 private:
  // One kind of layers; heads and their size are those of all (Check).
  struct Attention {
    int32_t window = 0;  // 0 = none
    DeviceVector cos, sin;
  };

  // In one stretch of device memory. S and L are max_step_tokens and max_logits_rows in whole buckets.
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
    float* last;      // [L, H]
    float* logits;    // [L, V]
    float* taps;      // [max_taps, S, H]
    float* partials;  // of attention
    float* ints;      // tokens, positions [S], logits rows [L]: int32
  };

  DeviceDecoder(const formats::ModelConfig& config, const ModelOptions& options,
                std::unique_ptr<Device> device);

  absl::Status MakeAttentions(ThreadPool& pool);
  absl::Status Allocate();
  const Attention& AttentionOf(int layer) const {
    return config_.layers[layer].sliding ? sliding_attention_ : attention_;
  }
  void AttentionBranch(int layer, int tokens, kernels::KvCache& cache);
  void FeedForwardBranch(int layer, int tokens);
  // x += the branch, behind its norm if it has one.
  void AddBranch(const DeviceVector& post_norm, int tokens);
  void Norm(const float* x, const DeviceVector& w, int tokens, float* y);
  void Gemm(const DeviceMatrix& w, float* y);
  void Tap(int layer, const Batch& batch, Outputs& outputs);
  void Logits(const Batch& batch, Outputs& outputs);

  // Constant after Create.
  const formats::ModelConfig config_;
  const ModelOptions options_;
  const std::shared_ptr<Device> device_;  // caches keep it, too
  const int hidden_, heads_, vocab_, kv_heads_, head_dim_, q_width_, kv_width_;
  const kernels::KvLayout kv_layout_;
  DeviceWeights weights_;
  Attention attention_, sliding_attention_;
  std::unique_ptr<kernels::cuda::TANDEM_CUDA_NAMESPACE::LibraryGemm> library_;  // null: deterministic

  // Overwritten by every Forward.
  DeviceBuffer work_area_;
  Buffers buffers_ = {};
  int64_t partial_floats_ = 0;
  int32_t *tokens_ = nullptr, *positions_ = nullptr, *logits_rows_ = nullptr;
  kernels::cuda::TANDEM_CUDA_NAMESPACE::StepTables step_;
  kernels::cuda::TANDEM_CUDA_NAMESPACE::DeviceActivations input_;  // of the next products
  std::vector<float> host_logits_, host_taps_;
};

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::models::cuda
