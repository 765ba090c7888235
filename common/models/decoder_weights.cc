#include "common/models/decoder_weights.h"

#include <cmath>
#include <span>
#include <utility>

#include "common/base/status.h"
#include "common/models/weight_policy.h"

namespace tandem::models {
namespace {

using formats::Checkpoint;
using formats::ModelConfig;
using formats::TensorView;
using kernels::Matrix;

// For each row in the order of pairs (j, j + head_dim/2), the row of a file that holds pairs side by side.
std::vector<int32_t> RowsOfInterleavedPairs(int64_t heads, int64_t head_dim) {
  std::vector<int32_t> source;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t half = 0; half < 2; ++half) {
      for (int64_t j = 0; j < head_dim / 2; ++j) {
        source.push_back(static_cast<int32_t>(h * head_dim + 2 * j + half));
      }
    }
  }
  return source;
}

// Reads tensors of one checkpoint and keeps count of what was packed.
class Reader {
 public:
  Reader(const Checkpoint& checkpoint, const ModelOptions& options, ThreadPool& pool)
      : checkpoint_(checkpoint), options_(options), pool_(pool) {}

  absl::StatusOr<Matrix> ReadMatrix(const std::string& name, int64_t rows, int64_t cols,
                                    std::span<const int32_t> source_row = {}) {
    ASSIGN_OR_RETURN(const TensorView tensor, checkpoint_.Tensor(name, {rows, cols}));
    const WeightChoice choice =
        options_.cuda_device.has_value()
            ? ChooseDeviceWeightType(tensor.dtype, options_.weight_type)
            : ChooseWeightType(tensor.dtype, options_.weight_type, options_.activation_type);
    auto matrix = Matrix::Pack(
        tensor, {.type = choice.type, .source_row = source_row, .pool = &pool_, .memory = &memory_});
    if (!matrix.ok()) return matrix.status();
    types_.Add(choice);
    quantised_ |= choice.type == kernels::WeightType::kInt8 || choice.type == kernels::WeightType::kInt4;
    bytes_ += matrix->bytes();
    return matrix;
  }

  // As it is multiplied with.
  absl::StatusOr<std::vector<float>> ReadNorm(const std::string& name, int64_t size) {
    ASSIGN_OR_RETURN(std::vector<float> weights, ReadVector(name, size));
    if (checkpoint_.NormsAddOne()) {
      for (float& w : weights) w += 1.0f;
    }
    return weights;
  }

  absl::StatusOr<std::vector<float>> ReadVector(const std::string& name, int64_t size) {
    ASSIGN_OR_RETURN(const TensorView tensor, checkpoint_.Tensor(name, {size}));
    std::vector<float> weights(size);
    formats::Dequantize(tensor.dtype, tensor.data, weights);
    for (const float w : weights) {
      if (!std::isfinite(w)) return InvalidArgument("tensor '{}': weights that are not finite", tensor.name);
    }
    bytes_ += size * static_cast<int64_t>(sizeof(float));
    return weights;
  }

  bool quantised() const { return quantised_; }
  std::string type_names() const { return types_.Name(); }
  int64_t bytes() const { return bytes_; }

 private:
  const Checkpoint& checkpoint_;
  const ModelOptions& options_;
  ThreadPool& pool_;
  kernels::WeightMemory memory_;
  WeightTypeSet types_;
  bool quantised_ = false;
  int64_t bytes_ = 0;
};

absl::Status ReadAttention(Reader& reader, const Checkpoint& checkpoint, int64_t layer,
                           const std::string& prefix, DecoderLayerWeights& w) {
  const ModelConfig& config = checkpoint.config();
  const formats::AttentionConfig& attention = config.AttentionOf(layer);
  const int64_t hidden = config.hidden_size, head_dim = attention.head_dim;
  const int64_t q_rows = config.num_heads * head_dim, kv_rows = attention.num_kv_heads * head_dim;
  const bool own_kv = config.HasOwnKv(layer);
  std::vector<int32_t> q_order, k_order;
  if (checkpoint.QkRowOrder() == formats::RowOrder::kInterleavedPairs) {
    q_order = RowsOfInterleavedPairs(config.num_heads, head_dim);
    k_order = RowsOfInterleavedPairs(attention.num_kv_heads, head_dim);
  }
  ASSIGN_OR_RETURN(w.attention_norm, reader.ReadNorm(prefix + "input_layernorm.weight", hidden));
  ASSIGN_OR_RETURN(w.q, reader.ReadMatrix(prefix + "self_attn.q_proj.weight", q_rows, hidden, q_order));
  if (own_kv) {
    ASSIGN_OR_RETURN(w.k, reader.ReadMatrix(prefix + "self_attn.k_proj.weight", kv_rows, hidden, k_order));
  }
  if (own_kv && !attention.value_is_key) {
    ASSIGN_OR_RETURN(w.v, reader.ReadMatrix(prefix + "self_attn.v_proj.weight", kv_rows, hidden));
  }
  if (config.traits().qkv_biases) {
    ASSIGN_OR_RETURN(w.q_bias, reader.ReadVector(prefix + "self_attn.q_proj.bias", q_rows));
    ASSIGN_OR_RETURN(w.k_bias, reader.ReadVector(prefix + "self_attn.k_proj.bias", kv_rows));
    ASSIGN_OR_RETURN(w.v_bias, reader.ReadVector(prefix + "self_attn.v_proj.bias", kv_rows));
  }
  if (config.traits().qk_norms) {
    ASSIGN_OR_RETURN(w.q_norm, reader.ReadNorm(prefix + "self_attn.q_norm.weight", head_dim));
    if (own_kv) {
      ASSIGN_OR_RETURN(w.k_norm, reader.ReadNorm(prefix + "self_attn.k_norm.weight", head_dim));
    }
  }
  ASSIGN_OR_RETURN(w.o, reader.ReadMatrix(prefix + "self_attn.o_proj.weight", hidden, q_rows));
  return absl::OkStatus();
}

absl::StatusOr<DecoderLayerWeights> ReadLayer(Reader& reader, const Checkpoint& checkpoint, int64_t layer) {
  const ModelConfig& config = checkpoint.config();
  const int64_t hidden = config.hidden_size, intermediate = config.layers[layer].intermediate_size;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  DecoderLayerWeights w;
  RETURN_IF_ERROR(ReadAttention(reader, checkpoint, layer, prefix, w));
  const char* feed_forward_norm = "post_attention_layernorm.weight";
  if (config.traits().post_norms) {
    ASSIGN_OR_RETURN(w.post_attention_norm,
                     reader.ReadNorm(prefix + "post_attention_layernorm.weight", hidden));
    ASSIGN_OR_RETURN(w.post_feed_forward_norm,
                     reader.ReadNorm(prefix + "post_feedforward_layernorm.weight", hidden));
    feed_forward_norm = "pre_feedforward_layernorm.weight";
  }
  ASSIGN_OR_RETURN(w.feed_forward_norm, reader.ReadNorm(prefix + feed_forward_norm, hidden));
  ASSIGN_OR_RETURN(w.gate, reader.ReadMatrix(prefix + "mlp.gate_proj.weight", intermediate, hidden));
  ASSIGN_OR_RETURN(w.up, reader.ReadMatrix(prefix + "mlp.up_proj.weight", intermediate, hidden));
  ASSIGN_OR_RETURN(w.down, reader.ReadMatrix(prefix + "mlp.down_proj.weight", hidden, intermediate));
  if (config.traits().layer_scalar) {
    ASSIGN_OR_RETURN(const std::vector<float> scalar, reader.ReadVector(prefix + "layer_scalar", 1));
    w.scalar = scalar[0];
  }
  return w;
}

absl::StatusOr<DecoderWeights> ReadAll(Reader& reader, const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  DecoderWeights weights;
  ASSIGN_OR_RETURN(weights.embedding,
                   reader.ReadMatrix("model.embed_tokens.weight", config.vocab_size, config.hidden_size));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(DecoderLayerWeights layer_weights, ReadLayer(reader, checkpoint, layer));
    weights.layers.push_back(std::move(layer_weights));
  }
  ASSIGN_OR_RETURN(weights.final_norm, reader.ReadNorm("model.norm.weight", config.hidden_size));
  weights.tied = config.tie_word_embeddings;
  if (!weights.tied) {
    ASSIGN_OR_RETURN(weights.untied_head,
                     reader.ReadMatrix("lm_head.weight", config.vocab_size, config.hidden_size));
  }
  weights.quantised = reader.quantised();
  weights.type_names = reader.type_names();
  weights.bytes = reader.bytes();
  return weights;
}

}  // namespace

absl::StatusOr<DecoderWeights> DecoderWeights::Load(const Checkpoint& checkpoint, const ModelOptions& options,
                                                    ThreadPool& pool) {
  Reader reader(checkpoint, options, pool);
  auto weights = ReadAll(reader, checkpoint);
  if (!weights.ok()) return Annotate(weights.status(), checkpoint.path());
  return weights;
}

}  // namespace tandem::models
