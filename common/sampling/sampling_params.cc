#include "absl/container/flat_hash_set.h"
#include "common/base/status.h"
#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

constexpr size_t kMaxLogitBiasIds = 1024;
constexpr float kMaxLogitBias = 100.0f;

// Written so that NaN is refused.
absl::Status CheckRange(const char* field, float value, float low, float high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("{}: must be in [{}, {}], is {}", field, low, high, value);
}

absl::Status CheckLogitBias(const SamplingParams& params, int32_t vocab_size) {
  if (params.logit_bias.size() > kMaxLogitBiasIds) {
    return InvalidArgument("logit_bias: at most {} ids, has {}", kMaxLogitBiasIds, params.logit_bias.size());
  }
  absl::flat_hash_set<int32_t> seen;
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab_size) {
      return InvalidArgument("logit_bias: token id {} outside [0, {})", id, vocab_size);
    }
    if (!seen.insert(id).second) return InvalidArgument("logit_bias: token id {} occurs twice", id);
    RETURN_IF_ERROR(CheckRange("logit_bias", bias, -kMaxLogitBias, kMaxLogitBias));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSamplingParams(const SamplingParams& params, int32_t vocab_size) {
  RETURN_IF_ERROR(CheckRange("temperature", params.temperature, 0.0f, 2.0f));
  if (params.top_k < 0) return InvalidArgument("top_k: must be at least 0, is {}", params.top_k);
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return InvalidArgument("top_p: must be in (0, 1], is {}", params.top_p);
  }
  RETURN_IF_ERROR(CheckRange("min_p", params.min_p, 0.0f, 1.0f));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", params.repetition_penalty, 0.1f, 10.0f));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", params.frequency_penalty, -2.0f, 2.0f));
  RETURN_IF_ERROR(CheckRange("presence_penalty", params.presence_penalty, -2.0f, 2.0f));
  return CheckLogitBias(params, vocab_size);
}

void TokenCounts::RemoveOutput(int32_t token) {
  const auto it = counts_.find(token);
  TANDEM_CHECK(it != counts_.end() && it->second.output > 0);
  // An entry without a count must go: the repetition penalty applies to every token that has one.
  if (--it->second.output == 0 && it->second.prompt == 0) counts_.erase(it);
}

}  // namespace tandem::sampling
