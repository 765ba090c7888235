#include "common/models/decoder.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/kernels/attention.h"
#include "common/kernels/elementwise.h"
#include "common/models/decoder_batch.h"

namespace tandem::models {
namespace {

// Device kind and kernel version. The number goes up whenever a kernel's arithmetic changes (gemm.h,
// attention.h, elementwise.h, math.h, the packing of weights) or the steps below do.
constexpr const char* kKernelVersion = "cpu-1";

}  // namespace

Decoder::Decoder(const formats::ModelConfig& config, const ModelOptions& options, ThreadPool& pool)
    : config_(config),
      options_(options),
      pool_(pool),
      hidden_(static_cast<int>(config.hidden_size)),
      heads_(static_cast<int>(config.num_heads)),
      vocab_(static_cast<int>(config.vocab_size)),
      kv_layout_(KvLayoutOf(config, options.kv_type)),
      kv_layer_(KvLayersOf(config)) {}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(const formats::Checkpoint& checkpoint,
                                                         const ModelOptions& options, ThreadPool& pool) {
  std::unique_ptr<Decoder> decoder(new Decoder(checkpoint.config(), options, pool));
  const ThreadPool::Active active(pool);
  RETURN_IF_ERROR(decoder->MakeAttentions());
  ASSIGN_OR_RETURN(decoder->weights_, DecoderWeights::Load(checkpoint, options, pool));
  RETURN_IF_ERROR(decoder->Allocate());
  return decoder;
}

absl::Status Decoder::MakeAttentions() {
  for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
    Attention& made = config_.layers[layer].sliding ? sliding_attention_ : attention_;
    if (made.head_dim > 0) continue;
    const formats::AttentionConfig& attention = config_.AttentionOf(layer);
    made.kv_heads = static_cast<int>(attention.num_kv_heads);
    made.head_dim = static_cast<int>(attention.head_dim);
    made.q_width = heads_ * made.head_dim;
    made.kv_width = made.kv_heads * made.head_dim;
    made.window = static_cast<int32_t>(attention.window);
    made.value_is_key = attention.value_is_key;
    if (config_.traits().value_norm) made.ones.assign(made.head_dim, 1.0f);
    ASSIGN_OR_RETURN(made.rope,
                     RopeTables::Create(attention.rope, made.head_dim, options_.max_positions, pool_));
  }
  return absl::OkStatus();
}

absl::Status Decoder::Allocate() {
  const int64_t rows = options_.max_step_tokens, logits_rows = options_.max_logits_rows;
  const int64_t q_width = std::max(attention_.q_width, sliding_attention_.q_width);
  const int64_t kv_width = std::max(attention_.kv_width, sliding_attention_.kv_width);
  int64_t intermediate = 0;
  for (const formats::LayerConfig& layer : config_.layers) {
    intermediate = std::max(intermediate, layer.intermediate_size);
  }
  const std::vector<std::pair<float**, int64_t>> arrays = {
      {&buffers_.x, rows * hidden_},
      {&buffers_.normed, rows * hidden_},
      {&buffers_.q, rows * q_width},
      {&buffers_.k, rows * kv_width},
      {&buffers_.v, rows * kv_width},
      {&buffers_.attended, rows * q_width},
      {&buffers_.gate, rows * intermediate},
      {&buffers_.up, rows * intermediate},
      {&buffers_.branch, rows * hidden_},
      {&buffers_.last, logits_rows * hidden_},
      {&buffers_.logits, logits_rows * vocab_},
      {&buffers_.taps, options_.max_taps * rows * hidden_},
  };
  std::vector<int64_t> sizes;
  for (const auto& [view, size] : arrays) sizes.push_back(size);
  ASSIGN_OR_RETURN(work_area_, WorkArea::Create(sizes));
  for (size_t i = 0; i < arrays.size(); ++i) *arrays[i].first = work_area_.array(static_cast<int>(i));

  const int max_rows = static_cast<int>(std::max(rows, logits_rows));
  const int max_cols = static_cast<int>(std::max<int64_t>({hidden_, q_width, intermediate}));
  // Only quantised weights read int8 activations.
  const bool int8 = options_.activation_type == kernels::ActivationType::kInt8;
  const auto type = int8 && !weights_.quantised ? kernels::ActivationType::kF32 : options_.activation_type;
  try {
    input_ = std::make_unique<kernels::Activations>(max_rows, max_cols, type);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("no memory for activations of {} rows of {}", max_rows, max_cols);
  }
  return absl::OkStatus();
}

std::string Decoder::NumericsId() const {
  return fmt::format("{}/{}/{}/{}", kKernelVersion, weights_.type_names,
                     kernels::ActivationTypeName(options_.activation_type),
                     kernels::KvTypeName(options_.kv_type));
}

void Decoder::Forward(const Batch& batch, kernels::KvCache& cache, Outputs& outputs) {
  CheckBatch(batch, config_, options_, kv_layout_, cache);
  const ThreadPool::Active active(pool_);
  outputs.taps.clear();
  profile_.Begin();

  const int64_t size = static_cast<int64_t>(batch.tokens.size()) * hidden_;
  kernels::EmbeddingLookup(weights_.embedding, batch.tokens, buffers_.x, pool_);
  if (config_.traits().scaled_embedding) {
    kernels::ScaleInPlace(buffers_.x, config_.embedding_scale, size, pool_);
  }
  Tap(-1, batch, outputs);
  for (int layer = 0; layer < static_cast<int>(config_.num_layers); ++layer) {
    AttentionBranch(layer, batch, cache);
    FeedForwardBranch(layer, batch);
    if (config_.traits().layer_scalar) {
      kernels::ScaleInPlace(buffers_.x, weights_.layers[layer].scalar, size, pool_);
    }
    Tap(layer, batch, outputs);
  }
  Logits(batch, outputs);
}

void Decoder::AttentionBranch(int layer, const Batch& batch, kernels::KvCache& cache) {
  const DecoderLayerWeights& w = weights_.layers[layer];
  const Attention& a = AttentionOf(layer);
  const Buffers& b = buffers_;
  const int tokens = static_cast<int>(batch.tokens.size());

  kernels::RmsNorm(b.x, w.attention_norm, config_.rms_norm_eps, tokens, b.normed, pool_);
  LoadInput(b.normed, tokens, hidden_);
  profile_.Charge(Stage::kSmall);
  Project(layer, tokens);
  if (config_.HasOwnKv(layer)) WriteKeysAndValues(layer, batch, cache);
  if (!w.q_norm.empty()) {
    kernels::RmsNormHeads(b.q, a.q_width, tokens, heads_, w.q_norm, config_.rms_norm_eps, pool_);
  }
  kernels::Rope(b.q, a.q_width, batch.positions, heads_, a.head_dim, a.rope.cos.data(), a.rope.sin.data(),
                pool_);
  profile_.Charge(Stage::kSmall);
  kernels::Attention(b.q, a.q_width, kv_layer_[layer], batch.sequences, cache, heads_,
                     config_.attention_scale, b.attended, a.q_width, pool_, a.window);
  profile_.Charge(Stage::kAttention, [&] { return AttentionWork(layer, batch); });
  LoadInput(b.attended, tokens, a.q_width);
  profile_.Charge(Stage::kSmall);
  kernels::Gemm(*input_, w.o, b.branch, hidden_, pool_);
  profile_.Charge(Stage::kAttentionOutput, [&] { return ProductWork({&w.o}, tokens); });
  AddBranch(w.post_attention_norm, tokens);
}

void Decoder::Project(int layer, int tokens) {
  const DecoderLayerWeights& w = weights_.layers[layer];
  const Attention& a = AttentionOf(layer);
  const Buffers& b = buffers_;
  const bool own_kv = config_.HasOwnKv(layer);
  const kernels::GemmOutput qkv[] = {{&w.q, b.q}, {&w.k, b.k}, {&w.v, b.v}};
  kernels::GemmMany(*input_, std::span(qkv).first(!own_kv ? 1 : a.value_is_key ? 2 : 3), pool_);
  profile_.Charge(Stage::kQkv, [&] {
    return !own_kv          ? ProductWork({&w.q}, tokens)
           : a.value_is_key ? ProductWork({&w.q, &w.k}, tokens)
                            : ProductWork({&w.q, &w.k, &w.v}, tokens);
  });
  if (own_kv && a.value_is_key) std::memcpy(b.v, b.k, sizeof(float) * tokens * a.kv_width);
  if (w.q_bias.empty()) return;
  kernels::AddToRows(b.q, w.q_bias, tokens, pool_);
  kernels::AddToRows(b.k, w.k_bias, tokens, pool_);
  kernels::AddToRows(b.v, w.v_bias, tokens, pool_);
}

void Decoder::WriteKeysAndValues(int layer, const Batch& batch, kernels::KvCache& cache) {
  const DecoderLayerWeights& w = weights_.layers[layer];
  const Attention& a = AttentionOf(layer);
  const Buffers& b = buffers_;
  const int tokens = static_cast<int>(batch.tokens.size());
  if (!w.k_norm.empty()) {
    kernels::RmsNormHeads(b.k, a.kv_width, tokens, a.kv_heads, w.k_norm, config_.rms_norm_eps, pool_);
  }
  if (!a.ones.empty()) {
    kernels::RmsNormHeads(b.v, a.kv_width, tokens, a.kv_heads, a.ones, config_.rms_norm_eps, pool_);
  }
  kernels::Rope(b.k, a.kv_width, batch.positions, a.kv_heads, a.head_dim, a.rope.cos.data(),
                a.rope.sin.data(), pool_);
  kernels::WriteKv(b.k, b.v, a.kv_width, kv_layer_[layer], batch.sequences, cache, pool_);
}

void Decoder::FeedForwardBranch(int layer, const Batch& batch) {
  const DecoderLayerWeights& w = weights_.layers[layer];
  const Buffers& b = buffers_;
  const int tokens = static_cast<int>(batch.tokens.size());
  const int intermediate = static_cast<int>(config_.layers[layer].intermediate_size);

  kernels::RmsNorm(b.x, w.feed_forward_norm, config_.rms_norm_eps, tokens, b.normed, pool_);
  LoadInput(b.normed, tokens, hidden_);
  profile_.Charge(Stage::kSmall);
  const kernels::GemmOutput gate_up[] = {{&w.gate, b.gate}, {&w.up, b.up}};
  kernels::GemmMany(*input_, gate_up, pool_);
  profile_.Charge(Stage::kGateUp, [&] { return ProductWork({&w.gate, &w.up}, tokens); });
  const auto activate = config_.traits().gelu ? kernels::GeGlu : kernels::SwiGlu;
  activate(b.gate, b.up, tokens, intermediate, b.gate, pool_);
  LoadInput(b.gate, tokens, intermediate);
  profile_.Charge(Stage::kSmall);
  kernels::Gemm(*input_, w.down, b.branch, hidden_, pool_);
  profile_.Charge(Stage::kDown, [&] { return ProductWork({&w.down}, tokens); });
  AddBranch(w.post_feed_forward_norm, tokens);
}

void Decoder::AddBranch(const std::vector<float>& post_norm, int tokens) {
  const Buffers& b = buffers_;
  if (!post_norm.empty()) {
    kernels::RmsNorm(b.branch, post_norm, config_.rms_norm_eps, tokens, b.branch, pool_);
  }
  kernels::AddInPlace(b.x, b.branch, int64_t{tokens} * hidden_, pool_);
}

void Decoder::LoadInput(const float* x, int tokens, int cols) {
  input_->Load({x, static_cast<size_t>(tokens) * cols}, tokens, cols, pool_);
}

void Decoder::Tap(int layer, const Batch& batch, Outputs& outputs) {
  if (!std::binary_search(batch.taps.begin(), batch.taps.end(), layer)) return;
  const size_t size = batch.tokens.size() * hidden_;
  float* const tap = buffers_.taps + outputs.taps.size() * size;
  std::memcpy(tap, buffers_.x, size * sizeof(float));
  outputs.taps.emplace_back(tap, size);
}

void Decoder::Logits(const Batch& batch, Outputs& outputs) {
  const Buffers& b = buffers_;
  const int rows = static_cast<int>(batch.logits_rows.size());
  outputs.logits = {b.logits, static_cast<size_t>(rows) * vocab_};
  if (rows == 0) return;
  for (int i = 0; i < rows; ++i) {
    std::memcpy(b.last + int64_t{i} * hidden_, b.x + int64_t{batch.logits_rows[i]} * hidden_,
                hidden_ * sizeof(float));
  }
  kernels::RmsNorm(b.last, weights_.final_norm, config_.rms_norm_eps, rows, b.last, pool_);
  LoadInput(b.last, rows, hidden_);
  profile_.Charge(Stage::kSmall);
  kernels::Gemm(*input_, weights_.head(), b.logits, vocab_, pool_);
  profile_.Charge(Stage::kHead, [&] { return ProductWork({&weights_.head()}, rows); });
  if (config_.logit_softcap > 0) {
    kernels::SoftCapInPlace(b.logits, config_.logit_softcap, int64_t{rows} * vocab_, pool_);
    profile_.Charge(Stage::kSmall);
  }
}

StageWork Decoder::ProductWork(std::initializer_list<const kernels::Matrix*> matrices, int64_t tokens) {
  StageWork work;
  for (const kernels::Matrix* matrix : matrices) {
    work.bytes += matrix->bytes();
    work.operations += 2 * matrix->rows() * matrix->cols() * tokens;
  }
  return work;
}

StageWork Decoder::AttentionWork(int layer, const Batch& batch) const {
  const Attention& a = AttentionOf(layer);
  const int64_t value_bytes = options_.kv_type == kernels::KvType::kF32 ? 4 : 2;
  StageWork work;
  for (const kernels::SequenceRows& sequence : batch.sequences) {
    const int64_t rows = sequence.num_rows, end = int64_t{sequence.first_position} + rows;
    work.bytes += 2 * end * a.kv_width * value_bytes;
    // Row i sees first_position + i + 1 positions; a score and a weighted sum of each.
    work.operations += 4 * a.q_width * (rows * end - rows * (rows - 1) / 2);
  }
  return work;
}

}  // namespace tandem::models
