// DSpark's sequential head: what the previous token adds to a position's base logits, and the confidence.
//
// With w = W1[previous], h the position's hidden state, s the state of the rnn type (0 at first):
//   vanilla   l = w
//   gated     l = sigmoid(G [h ; w] + b) * w
//   rnn       (g, c, o) = J [s ; w ; h] + b;  l = tanh(o);  s' = sigmoid(g) * s + (1 - sigmoid(g)) * tanh(c)
//   logits    = base + W2 l
//   confidence logit = a . [h ; w] + b, or a . h + b
// What depends on h alone is computed for all positions at once, before the first draw; what confidence takes
// from w is one number per token, computed at load.
//
// One thread calls at a time; nothing but Load allocates.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/kernels/gemm.h"
#include "common/models/work_area.h"
#include "drafter/models/draft_weights.h"
#include "drafter/models/token_rows.h"

namespace tandem::drafter {

class SequentialHead {
 public:
  // For a configuration with a Markov or a confidence head. `reader` has read the vocabulary.
  static absl::StatusOr<std::unique_ptr<SequentialHead>> Load(const DraftConfig& config,
                                                              const DraftModelOptions& options,
                                                              DraftWeightReader& reader, ThreadPool& pool);

  bool has_markov() const { return rank_ > 0; }
  bool has_confidence() const { return confidence_.has_value(); }

  // Products of hidden states to compute along with the base logits: at most two, of the input [rows, H].
  void AppendProducts(std::vector<kernels::GemmOutput>& products);
  // Those products are there; the blocks of `num_requests` begin.
  void Begin(int32_t num_requests);
  // Latent l of position k (from 0) of every request, given the tokens before it.
  void Step(int32_t k, std::span<const int32_t> previous);
  // W2 l after Step, row i for token i of the drafts' vocabulary. With markov_top_k = 0: all of it,
  // [requests, draft vocabulary], for the caller to change. Else one at a time.
  float* BiasOfAll(int32_t num_requests);
  float Bias(int32_t request, int32_t row) const;
  float ConfidenceLogit(int32_t request, int32_t k, int32_t previous) const;

 private:
  struct Confidence {
    kernels::Matrix hidden;       // [1, H]
    std::vector<float> of_token;  // [V]: a . W1[token]; empty without Markov input
    float bias = 0;
  };
  // Views into the work area; R = max_blocks, T = R * block_size.
  struct Buffers {
    float* from_hidden;  // [T, r] gated: G h; [T, 3 r] rnn: J h
    float* confidence;   // [T] a . h
    float* embedded;     // [R, r] w; rnn: [R, 2 r] s, w
    float* product;      // [R, r] gated, [R, 3 r] rnn: what is not from h
    float* state;        // [R, r]
    float* latent;       // [R, r]
    float* bias;         // [R, draft_vocab] with markov_top_k = 0
  };

  SequentialHead(const DraftConfig& config, const DraftModelOptions& options, ThreadPool& pool);

  absl::Status LoadMarkov(const DraftConfig& config, DraftWeightReader& reader);
  absl::Status LoadConfidence(const DraftConfig& config, DraftWeightReader& reader);
  absl::Status Allocate(int32_t draft_vocab);
  void StepGated(int32_t k, int32_t num_requests);
  void StepRnn(int32_t k, int32_t num_requests);

  // Constant after Load.
  ThreadPool& pool_;
  const MarkovType type_;
  const int32_t hidden_, rank_, block_size_, max_requests_;
  const bool whole_vocabulary_;  // markov_top_k = 0
  const kernels::ActivationType activation_type_;
  TokenRows w1_;                              // [V, r]
  TokenRows w2_rows_;                         // [draft vocabulary, r], to score a few
  kernels::Matrix w2_;                        // the same, to score all
  kernels::Matrix from_hidden_, from_token_;  // gated: [r, H], [r, r]; rnn: [3 r, H], [3 r, 2 r]
  std::vector<float> gate_bias_;              // [r] or [3 r]
  std::optional<Confidence> confidence_;

  // Overwritten by every Draft.
  models::WorkArea work_area_;
  Buffers buffers_ = {};
  std::unique_ptr<kernels::Activations> input_;
};

}  // namespace tandem::drafter
