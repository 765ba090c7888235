// The target's token at one position: a pure function of (seed, index, logits, parameters, history).
//
// Order of the steps, with its ties, as vLLM and transformers have them: logit bias, repetition penalty,
// frequency and presence penalties, allowed tokens, temperature, top-k, top-p, min-p, then the coupled choice
// argmax_v(log p(v) + g(seed, index, v)). docs/numerics.md has the exact rules.
//
// No function here keeps state; SampleCoupled allocates nothing beyond its scratch. All are thread-safe with
// separate scratch.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/sampling/philox.h"

namespace tandem::sampling {

// Defaults are "off". Ranges as in section 4 of docs/api.md; Validate checks them.
struct SamplingParams {
  float temperature = 1.0f;                                // 0..2; below 1e-5 greedy
  int32_t top_k = 0;                                       // 0 = off
  float top_p = 1.0f;                                      // (0, 1]; 1 = off
  float min_p = 0.0f;                                      // 0..1; 0 = off
  float repetition_penalty = 1.0f;                         // 0.1..10; prompt and output
  float frequency_penalty = 0.0f;                          // -2..2; output only
  float presence_penalty = 0.0f;                           // -2..2; output only
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // ids unique, |bias| <= 100
  uint64_t seed = 0;

  bool greedy() const { return temperature < 1e-5f; }
  bool has_penalties() const {
    return repetition_penalty != 1.0f || frequency_penalty != 0.0f || presence_penalty != 0.0f;
  }
};
// kInvalidArgument naming the field, its range and the value.
absl::Status ValidateSamplingParams(const SamplingParams& params, int32_t vocab_size);

// How often each token occurs; prompt and output apart, since penalties tell them apart.
class TokenCounts {
 public:
  void AddPrompt(int32_t token) { ++counts_[token].prompt; }
  void AddOutput(int32_t token) { ++counts_[token].output; }
  void RemoveOutput(int32_t token);  // undoes one AddOutput of this token, which there must have been
  struct Count {
    int32_t prompt = 0, output = 0;
  };
  const absl::flat_hash_map<int32_t, Count>& counts() const { return counts_; }
  bool empty() const { return counts_.empty(); }
  void Clear() { counts_.clear(); }

 private:
  absl::flat_hash_map<int32_t, Count> counts_;
};

// One position's inputs. `history` may be null without penalties; `masked` ids are forbidden (filter step 4:
// EOS and stop ids while min_tokens holds, padding rows of the vocabulary).
struct Position {
  const SamplingParams* params = nullptr;
  const TokenCounts* history = nullptr;
  std::span<const int32_t> masked;
  uint64_t index = 0;  // 0-based over prompt + output: the index the sampled token will have
};

// Reused between calls to save allocations; contents have no meaning.
struct Scratch {
  std::vector<float> logits;
  std::vector<float> weights;
  std::vector<std::pair<float, int32_t>> candidates;
};

// kInvalidArgument if a logit is NaN or +inf, if an id lies outside [0, V), or if no token is possible; -inf
// is legal. `logits` [V] f32, V <= kMaxVocabulary, are not changed. `params` need not lie within Validate's
// ranges, but must be numbers. The score is (z - max z) / T + g in f32, z the processed logit; equal scores:
// lowest id. Every number that a choice hangs on has the same bits on every machine.
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 21;
absl::StatusOr<int32_t> SampleCoupled(std::span<const float> logits, const Position& position,
                                      Scratch& scratch);

// The coupled choice among a few (logit, token id) pairs: argmax((z - max z) / T + g(seed, index, id)), equal
// scores: lowest id; T > 0. Among all tokens of a row it is SampleCoupled's choice without filters. Logits
// that are NaN never win; at least one must not be, and none may be +inf.
int32_t ChooseCoupled(std::span<const std::pair<float, int32_t>> candidates, float temperature, uint64_t seed,
                      uint64_t index);

// The processed distribution after all steps, [V]; the reference that SampleCoupled is tested against:
// everything in f64, a full sort. Same errors. Survivors whose probability underflows f32 are 0.
absl::StatusOr<std::vector<float>> ProcessedDistribution(std::span<const float> logits,
                                                         const Position& position);

// argmax_v (log p_v + g(seed, index, v)) in the given stream tag; tokens with p = 0 never win, ties: lowest
// id.
int32_t ArgmaxWithNoise(std::span<const float> probs, uint64_t seed, uint64_t index, uint32_t tag);
// The same over (probability, token id) pairs; all other tokens have p = 0.
int32_t ArgmaxWithNoise(std::span<const std::pair<float, int32_t>> probs, uint64_t seed, uint64_t index,
                        uint32_t tag);

// log-softmax of the raw logits (before temperature, penalties and filters): the chosen token's and the
// `num_top` largest (fewer if V is smaller), descending, ties by lower id. Summed in f64 in a fixed order;
// error below 1e-6. `logits` hold no NaN or +inf and one finite value at least (SampleCoupled has accepted
// them); `chosen` lies in [0, V).
struct TokenLogprobs {
  float chosen = 0;
  std::vector<std::pair<int32_t, float>> top;
};
TokenLogprobs ComputeLogprobs(std::span<const float> logits, int32_t chosen, int num_top);

}  // namespace tandem::sampling
