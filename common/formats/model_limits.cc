#include "common/formats/model_limits.h"

#include <cmath>

#include "common/base/status.h"

namespace tandem::formats {
namespace {

absl::Status CheckCount(const char* field, int64_t value, int64_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return InvalidArgument("{} is {}, allowed are 1 to {}", field, value, limit);
}

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
  if (rope.inverse_frequency_divisors.empty()) return absl::OkStatus();
  TANDEM_CHECK(static_cast<int64_t>(rope.inverse_frequency_divisors.size()) == head_dim / 2);
  for (const float divisor : rope.inverse_frequency_divisors) {
    if (!std::isfinite(divisor) || !(divisor > 0)) {
      return InvalidArgument("rope frequency divisor {}, it must be positive and finite", divisor);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckModelConfig(const ModelConfig& config) {
  RETURN_IF_ERROR(CheckCount("vocab_size", config.vocab_size, kMaxVocab));
  RETURN_IF_ERROR(CheckCount("hidden_size", config.hidden_size, kMaxHidden));
  RETURN_IF_ERROR(CheckCount("intermediate_size", config.intermediate_size, kMaxIntermediate));
  RETURN_IF_ERROR(CheckCount("num_hidden_layers", config.num_layers, kMaxLayers));
  RETURN_IF_ERROR(CheckCount("num_attention_heads", config.num_heads, kMaxHeads));
  RETURN_IF_ERROR(CheckCount("num_key_value_heads", config.num_kv_heads, kMaxHeads));
  RETURN_IF_ERROR(CheckCount("head_dim", config.head_dim, kMaxHeadDim));
  RETURN_IF_ERROR(CheckCount("max_position_embeddings", config.max_position, kMaxContext));
  if (config.num_heads % config.num_kv_heads != 0) {
    return InvalidArgument("num_attention_heads {} is no multiple of num_key_value_heads {}",
                           config.num_heads, config.num_kv_heads);
  }
  if (config.head_dim % 2 != 0) return InvalidArgument("head_dim is {}, it must be even", config.head_dim);
  if (!std::isfinite(config.rms_norm_eps) || !(config.rms_norm_eps > 0) || config.rms_norm_eps > 1) {
    return InvalidArgument("rms_norm_eps is {}, it must be above 0 and at most 1", config.rms_norm_eps);
  }
  RETURN_IF_ERROR(CheckRope(config.rope, config.head_dim));
  if (config.bos_token_id.has_value())
    RETURN_IF_ERROR(CheckTokenId("bos_token_id", *config.bos_token_id, config));
  for (const int32_t id : config.eos_token_ids) RETURN_IF_ERROR(CheckTokenId("eos_token_id", id, config));
  return absl::OkStatus();
}

}  // namespace tandem::formats
