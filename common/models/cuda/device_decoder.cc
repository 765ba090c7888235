#include "common/models/cuda/device_decoder.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/cuda/elementwise.h"
#include "common/models/decoder_batch.h"
#include "common/models/rope_tables.h"

namespace tandem::models::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

namespace device_kernels = kernels::cuda::TANDEM_CUDA_NAMESPACE;

// As decoder.cc's: goes up whenever the arithmetic does.
constexpr const char* kKernelVersion = "cuda-1";

// Spans that attention computes apart are of few rows; what needs more memory than this is not cut.
constexpr int64_t kMaxPartialRows = 64;
constexpr int64_t kMaxPartialFloats = 16 << 20;

class DeviceKvMemory : public kernels::KvMemory {
 public:
  DeviceKvMemory(DeviceBuffer buffer, std::shared_ptr<Device> device)
      : device_(std::move(device)), buffer_(std::move(buffer)) {}
  std::byte* data() const override { return buffer_.data(); }
  void Poison(std::byte* at, int64_t bytes) override { device_->Fill(at, 0xff, bytes); }

 private:
  const std::shared_ptr<Device> device_;  // outlives the buffer
  const DeviceBuffer buffer_;
};

absl::Status Check(const formats::Checkpoint& checkpoint, const ModelOptions& options) {
  const formats::ModelConfig& config = checkpoint.config();
  const auto refuse = [&](const std::string& what) {
    return Unimplemented("{}: {} on a CUDA device", checkpoint.path(), what);
  };
  if (config.family == formats::ModelFamily::kGemma4) return refuse("Gemma 4 does not run yet");
  if (options.activation_type == kernels::ActivationType::kInt8)
    return refuse("int8 activations do not exist, only f32 and bf16,");
  if (options.kv_type == kernels::KvType::kInt8) return refuse("an int8 KV cache does not exist");
  if (options.weight_type == kernels::WeightType::kInt8 || options.weight_type == kernels::WeightType::kInt4)
    return refuse("weights are f32 or bf16, not int8 or q4,");
  const formats::AttentionConfig& first = config.AttentionOf(0);
  if (first.head_dim > device_kernels::kMaxDeviceHeadDim) {
    return refuse(fmt::format("head_dim is {}, only up to {} is supported", first.head_dim,
                              device_kernels::kMaxDeviceHeadDim));
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const formats::AttentionConfig& attention = config.AttentionOf(layer);
    // What only Gemma 4 has.
    TANDEM_CHECK(attention.head_dim == first.head_dim && attention.num_kv_heads == first.num_kv_heads &&
                 !attention.value_is_key && config.HasOwnKv(layer));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadDeviceModel(const formats::Checkpoint& checkpoint,
                                                       const ModelOptions& options, ThreadPool& pool) {
  ASSIGN_OR_RETURN(std::unique_ptr<Device> device, Device::Open(*options.cuda_device));
  RETURN_IF_ERROR(Check(checkpoint, options));
  return DeviceDecoder::Create(checkpoint, options, pool, std::move(device));
}

DeviceDecoder::DeviceDecoder(const formats::ModelConfig& config, const ModelOptions& options,
                             std::unique_ptr<Device> device)
    : config_(config),
      options_(options),
      device_(std::move(device)),
      hidden_(static_cast<int>(config.hidden_size)),
      heads_(static_cast<int>(config.num_heads)),
      vocab_(static_cast<int>(config.vocab_size)),
      kv_heads_(static_cast<int>(config.AttentionOf(0).num_kv_heads)),
      head_dim_(static_cast<int>(config.AttentionOf(0).head_dim)),
      q_width_(heads_ * head_dim_),
      kv_width_(kv_heads_ * head_dim_),
      kv_layout_(KvLayoutOf(config, options.kv_type)) {}

absl::StatusOr<std::unique_ptr<DeviceDecoder>> DeviceDecoder::Create(const formats::Checkpoint& checkpoint,
                                                                     const ModelOptions& options,
                                                                     ThreadPool& pool,
                                                                     std::unique_ptr<Device> device) {
  std::unique_ptr<DeviceDecoder> decoder(new DeviceDecoder(checkpoint.config(), options, std::move(device)));
  const ThreadPool::Active active(pool);
  if (!options.deterministic) {
    ASSIGN_OR_RETURN(decoder->library_, device_kernels::LibraryGemm::Create(*decoder->device_));
  }
  RETURN_IF_ERROR(decoder->MakeAttentions(pool));
  ASSIGN_OR_RETURN(decoder->weights_, DeviceWeights::Load(checkpoint, options, pool, *decoder->device_));
  RETURN_IF_ERROR(decoder->Allocate());
  return decoder;
}

absl::Status DeviceDecoder::MakeAttentions(ThreadPool& pool) {
  for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
    Attention& made = config_.layers[layer].sliding ? sliding_attention_ : attention_;
    if (!made.cos.empty()) continue;
    const formats::AttentionConfig& attention = config_.AttentionOf(layer);
    made.window = static_cast<int32_t>(attention.window);
    ASSIGN_OR_RETURN(const RopeTables tables,
                     RopeTables::Create(attention.rope, head_dim_, options_.max_positions, pool));
    ASSIGN_OR_RETURN(made.cos, DeviceVector::Create(tables.cos, *device_));
    ASSIGN_OR_RETURN(made.sin, DeviceVector::Create(tables.sin, *device_));
  }
  return absl::OkStatus();
}

absl::Status DeviceDecoder::Allocate() {
  const int64_t rows = device_kernels::BucketTokens(options_.max_step_tokens);
  const int64_t logits_rows = device_kernels::BucketTokens(options_.max_logits_rows);
  int64_t intermediate = 0;
  for (const formats::LayerConfig& layer : config_.layers) {
    intermediate = std::max(intermediate, layer.intermediate_size);
  }
  const int64_t spans = (options_.max_positions - 1) / kernels::kAttentionSpan + 1;
  partial_floats_ =
      std::min(kMaxPartialFloats, std::min(rows, kMaxPartialRows) * heads_ * spans * (2 + head_dim_));
  const std::vector<std::pair<float**, int64_t>> arrays = {
      {&buffers_.x, rows * hidden_},
      {&buffers_.normed, rows * hidden_},
      {&buffers_.q, rows * q_width_},
      {&buffers_.k, rows * kv_width_},
      {&buffers_.v, rows * kv_width_},
      {&buffers_.attended, rows * q_width_},
      {&buffers_.gate, rows * intermediate},
      {&buffers_.up, rows * intermediate},
      {&buffers_.branch, rows * hidden_},
      {&buffers_.last, logits_rows * hidden_},
      {&buffers_.logits, logits_rows * vocab_},
      {&buffers_.taps, options_.max_taps * rows * hidden_},
      {&buffers_.partials, partial_floats_},
      {&buffers_.ints, 2 * rows + logits_rows},
  };
  constexpr int64_t kAlignment = 64;  // floats: what the library's fastest products want of their operands
  int64_t size = 0;
  for (const auto& [view, floats] : arrays) size += (floats + kAlignment - 1) / kAlignment * kAlignment;
  ASSIGN_OR_RETURN(work_area_, device_->Allocate(size * sizeof(float)));
  float* next = work_area_.as<float>();
  for (const auto& [view, floats] : arrays) {
    *view = next;
    next += (floats + kAlignment - 1) / kAlignment * kAlignment;
  }
  tokens_ = reinterpret_cast<int32_t*>(buffers_.ints);
  positions_ = tokens_ + rows;
  logits_rows_ = positions_ + rows;

  const int64_t max_cols = std::max<int64_t>({hidden_, q_width_, intermediate});
  ASSIGN_OR_RETURN(input_, device_kernels::DeviceActivations::Create(
                               static_cast<int>(std::max(rows, logits_rows)), static_cast<int>(max_cols),
                               options_.activation_type, *device_));
  ASSIGN_OR_RETURN(
      step_, device_kernels::StepTables::Create(options_.max_step_tokens, heads_ / kv_heads_, *device_));
  return absl::OkStatus();
}

std::string DeviceDecoder::NumericsId() const {
  // The library's sums depend on its version.
  const std::string products = library_ == nullptr ? "deterministic" : device_kernels::LibraryGemm::Version();
  return fmt::format("{}/{}/{}/{}/{}/{}", kKernelVersion, device_->facts().architecture, products,
                     weights_.type_names, kernels::ActivationTypeName(options_.activation_type),
                     kernels::KvTypeName(options_.kv_type));
}

absl::StatusOr<std::unique_ptr<kernels::KvCache>> DeviceDecoder::CreateKvCache(int num_blocks) const {
  TANDEM_CHECK(num_blocks > 0 && kv_layout_.block_bytes > 0);
  absl::StatusOr<DeviceBuffer> buffer = device_->Allocate(num_blocks * kv_layout_.block_bytes);
  if (!buffer.ok()) {
    return ResourceExhausted("a KV cache of {} blocks of {} bytes: {}", num_blocks, kv_layout_.block_bytes,
                             std::string(buffer.status().message()));
  }
  return std::make_unique<kernels::KvCache>(kv_layout_, num_blocks,
                                            std::make_unique<DeviceKvMemory>(*std::move(buffer), device_));
}

void DeviceDecoder::Forward(const Batch& batch, kernels::KvCache& cache, Outputs& outputs) {
  CheckBatch(batch, config_, options_, kv_layout_, cache);
  device_->Use();
  outputs.taps.clear();
  const int tokens = static_cast<int>(batch.tokens.size());
  device_->Upload(tokens_, batch.tokens.data(), tokens * sizeof(int32_t));
  device_->Upload(positions_, batch.positions.data(), tokens * sizeof(int32_t));
  step_.Load(batch.sequences, *device_);
  host_taps_.resize(batch.taps.size() * tokens * hidden_);

  device_kernels::EmbeddingLookup(weights_.embedding, tokens_, tokens, buffers_.x, *device_);
  if (config_.traits().scaled_embedding) {
    device_kernels::ScaleInPlace(buffers_.x, config_.embedding_scale, int64_t{tokens} * hidden_, *device_);
  }
  Tap(-1, batch, outputs);
  for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
    AttentionBranch(layer, tokens, cache);
    FeedForwardBranch(layer, tokens);
    Tap(layer, batch, outputs);
  }
  Logits(batch, outputs);
  device_->Synchronize();
}

void DeviceDecoder::AttentionBranch(int layer, int tokens, kernels::KvCache& cache) {
  const DeviceLayerWeights& w = weights_.layers[layer];
  const Attention& a = AttentionOf(layer);
  const Buffers& b = buffers_;
  Norm(b.x, w.attention_norm, tokens, b.normed);
  input_.Load(b.normed, tokens, hidden_, *device_);
  Gemm(w.q, b.q);
  Gemm(w.k, b.k);
  Gemm(w.v, b.v);
  if (!w.q_bias.empty()) {
    device_kernels::AddToRows(b.q, w.q_bias.data(), q_width_, tokens, *device_);
    device_kernels::AddToRows(b.k, w.k_bias.data(), kv_width_, tokens, *device_);
    device_kernels::AddToRows(b.v, w.v_bias.data(), kv_width_, tokens, *device_);
  }
  if (!w.q_norm.empty()) {
    const float eps = config_.rms_norm_eps;
    device_kernels::RmsNormHeads(b.q, q_width_, tokens, heads_, w.q_norm.data(), head_dim_, eps, *device_);
    device_kernels::RmsNormHeads(b.k, kv_width_, tokens, kv_heads_, w.k_norm.data(), head_dim_, eps,
                                 *device_);
  }
  device_kernels::Rope(b.q, q_width_, positions_, tokens, heads_, head_dim_, a.cos.data(), a.sin.data(),
                       *device_);
  device_kernels::Rope(b.k, kv_width_, positions_, tokens, kv_heads_, head_dim_, a.cos.data(), a.sin.data(),
                       *device_);
  const device_kernels::DeviceKv kv = {cache.block(0), kv_layout_};
  device_kernels::WriteKv(b.k, b.v, kv_width_, layer, step_, kv, *device_);
  device_kernels::Attention(b.q, q_width_, layer, step_, kv, config_.attention_scale, b.attended, q_width_,
                            a.window, {b.partials, static_cast<size_t>(partial_floats_)}, *device_);
  input_.Load(b.attended, tokens, q_width_, *device_);
  Gemm(w.o, b.branch);
  AddBranch(w.post_attention_norm, tokens);
}

void DeviceDecoder::FeedForwardBranch(int layer, int tokens) {
  const DeviceLayerWeights& w = weights_.layers[layer];
  const Buffers& b = buffers_;
  const int64_t intermediate = config_.layers[layer].intermediate_size;
  Norm(b.x, w.feed_forward_norm, tokens, b.normed);
  input_.Load(b.normed, tokens, hidden_, *device_);
  Gemm(w.gate, b.gate);
  Gemm(w.up, b.up);
  const auto activate = config_.traits().gelu ? device_kernels::GeGlu : device_kernels::SwiGlu;
  activate(b.gate, b.up, tokens * intermediate, b.gate, *device_);
  input_.Load(b.gate, tokens, static_cast<int>(intermediate), *device_);
  Gemm(w.down, b.branch);
  AddBranch(w.post_feed_forward_norm, tokens);
}

void DeviceDecoder::AddBranch(const DeviceVector& post_norm, int tokens) {
  const Buffers& b = buffers_;
  if (!post_norm.empty()) Norm(b.branch, post_norm, tokens, b.branch);
  device_kernels::AddInPlace(b.x, b.branch, int64_t{tokens} * hidden_, *device_);
}

void DeviceDecoder::Norm(const float* x, const DeviceVector& w, int tokens, float* y) {
  device_kernels::RmsNorm(x, w.data(), hidden_, config_.rms_norm_eps, tokens, y, *device_);
}

void DeviceDecoder::Gemm(const DeviceMatrix& w, float* y) {
  device_kernels::Gemm(input_, w, y, library_.get(), *device_);
}

void DeviceDecoder::Tap(int layer, const Batch& batch, Outputs& outputs) {
  if (!std::binary_search(batch.taps.begin(), batch.taps.end(), layer)) return;
  const size_t size = batch.tokens.size() * hidden_;
  const size_t at = outputs.taps.size() * size;
  // Copied on the device first, so that the step does not wait for the host.
  device_->Copy(buffers_.taps + at, buffers_.x, size * sizeof(float));
  outputs.taps.emplace_back(host_taps_.data() + at, size);
}

void DeviceDecoder::Logits(const Batch& batch, Outputs& outputs) {
  const Buffers& b = buffers_;
  const int rows = static_cast<int>(batch.logits_rows.size());
  if (!outputs.taps.empty()) {
    device_->Download(host_taps_.data(), b.taps, host_taps_.size() * sizeof(float));
  }
  host_logits_.resize(static_cast<size_t>(rows) * vocab_);
  outputs.logits = host_logits_;
  if (rows == 0) return;
  device_->Upload(logits_rows_, batch.logits_rows.data(), rows * sizeof(int32_t));
  device_kernels::GatherRows(b.x, logits_rows_, rows, hidden_, b.last, *device_);
  Norm(b.last, weights_.final_norm, rows, b.last);
  input_.Load(b.last, rows, hidden_, *device_);
  Gemm(weights_.head(), b.logits);
  if (config_.logit_softcap > 0) {
    device_kernels::SoftCapInPlace(b.logits, config_.logit_softcap, int64_t{rows} * vocab_, *device_);
  }
  device_->Download(host_logits_.data(), b.logits, host_logits_.size() * sizeof(float));
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::models::cuda
