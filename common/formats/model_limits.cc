#include "common/formats/model_limits.h"

#include <cmath>

#include "common/base/status.h"

namespace tandem::formats {
namespace {

absl::Status CheckTokenId(const char* field, int64_t id, const ModelConfig& config) {
  if (id >= 0 && id < config.vocab_size) return absl::OkStatus();
  return InvalidArgument("{} is {}, the vocabulary has {} tokens", field, id, config.vocab_size);
}

absl::Status CheckRope(const RopeConfig& rope, int64_t head_dim) {
  if (!std::isfinite(rope.theta) || rope.theta < 1) {
    return InvalidArgument("rope_theta is {}, it must be finite and at least 1", rope.theta);
  }
  if (rope.llama3.has_value()) {
    const RopeConfig::Llama3& scaling = *rope.llama3;
    if (!std::isfinite(scaling.factor) || scaling.factor < 1) {
      return InvalidArgument("rope factor is {}, it must be finite and at least 1", scaling.factor);
    }
    if (!std::isfinite(scaling.high_freq_factor) || !(scaling.low_freq_factor > 0) ||
        !(scaling.high_freq_factor > scaling.low_freq_factor)) {
      return InvalidArgument("rope low_freq_factor {} and high_freq_factor {}: 0 < low < high must hold",
                             scaling.low_freq_factor, scaling.high_freq_factor);
    }
    RETURN_IF_ERROR(
        CheckCount("rope original_max_position_embeddings", scaling.original_context, kMaxContext));
  }
  if (!std::isfinite(rope.linear_factor) || rope.linear_factor < 1) {
    return InvalidArgument("rope factor is {}, it must be finite and at least 1", rope.linear_factor);
  }
  if (!(rope.rotated_share > 0) || rope.rotated_share > 1) {
    return InvalidArgument("partial_rotary_factor is {}, it must be above 0 and at most 1",
                           rope.rotated_share);
  }
  if (rope.inverse_frequency_divisors.empty()) return absl::OkStatus();
  TANDEM_CHECK(static_cast<int64_t>(rope.inverse_frequency_divisors.size()) == head_dim / 2);
  for (const float divisor : rope.inverse_frequency_divisors) {
    if (!std::isfinite(divisor) || !(divisor > 0)) {
      return InvalidArgument("rope frequency divisor {}, it must be positive and finite", divisor);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAttention(const AttentionConfig& attention, int64_t num_heads) {
  RETURN_IF_ERROR(CheckCount("num_key_value_heads", attention.num_kv_heads, kMaxHeads));
  RETURN_IF_ERROR(CheckCount("head_dim", attention.head_dim, kMaxHeadDim));
  if (num_heads % attention.num_kv_heads != 0) {
    return InvalidArgument("num_attention_heads {} is no multiple of num_key_value_heads {}", num_heads,
                           attention.num_kv_heads);
  }
  if (attention.head_dim % 2 != 0) {
    return InvalidArgument("head_dim is {}, it must be even", attention.head_dim);
  }
  return CheckRope(attention.rope, attention.head_dim);
}

absl::Status CheckAttentions(const ModelConfig& config) {
  TANDEM_CHECK(static_cast<int64_t>(config.layers.size()) == config.num_layers);
  bool any[2] = {};
  for (const LayerConfig& layer : config.layers) any[layer.sliding] = true;
  for (const bool sliding : {false, true}) {
    if (!any[sliding]) continue;
    const absl::Status status =
        CheckAttention(sliding ? config.sliding_attention : config.attention, config.num_heads);
    // Which of two kinds is said only where there are two.
    if (!any[!sliding]) return status;
    RETURN_IF_ERROR(Annotate(status, sliding ? "sliding_attention layers" : "full_attention layers"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCount(const char* field, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return InvalidArgument("{} is {}, allowed are 1 to {}", field, value, limit);
}

absl::Status CheckModelConfig(const ModelConfig& config) {
  RETURN_IF_ERROR(CheckCount("vocab_size", config.vocab_size, kMaxVocab));
  RETURN_IF_ERROR(CheckCount("hidden_size", config.hidden_size, kMaxHidden));
  RETURN_IF_ERROR(CheckCount("intermediate_size", config.intermediate_size, kMaxIntermediate));
  RETURN_IF_ERROR(CheckCount("num_hidden_layers", config.num_layers, kMaxLayers));
  RETURN_IF_ERROR(CheckCount("num_attention_heads", config.num_heads, kMaxHeads));
  RETURN_IF_ERROR(CheckCount("max_position_embeddings", config.max_position, kMaxContext));
  RETURN_IF_ERROR(CheckAttentions(config));
  if (!std::isfinite(config.rms_norm_eps) || !(config.rms_norm_eps > 0) || config.rms_norm_eps > 1) {
    return InvalidArgument("rms_norm_eps is {}, it must be above 0 and at most 1", config.rms_norm_eps);
  }
  if (config.bos_token_id.has_value())
    RETURN_IF_ERROR(CheckTokenId("bos_token_id", *config.bos_token_id, config));
  for (const int32_t id : config.eos_token_ids) RETURN_IF_ERROR(CheckTokenId("eos_token_id", id, config));
  return absl::OkStatus();
}

}  // namespace tandem::formats
