// DSpark, and DFlash, which is DSpark without heads. For a block behind `start` context positions:
//
//   context row C of position t (projected by the verifier), in every layer:
//     K, V of t = Rope(RmsNormHeads(Wk C), t), Wv C            no norm before, and nothing else: rows only
//   block: x = embedding of [anchor, mask, mask, ...] at positions start, start + 1, ...
//     layer by layer (draft_layer.h) with a = RmsNorm(x); each slot sees the whole context and all slots
//     h = RmsNorm(x);  base logits = Whead h, soft-capped if the target's are
//   draft k = drawn from base logits k + what draft k - 1 adds (sequential_head.h), left to right
//
// Slot j predicts position start + j + 1: block_size slots give as many drafts.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "common/models/work_area.h"
#include "drafter/models/draft_layer.h"
#include "drafter/models/draft_model.h"
#include "drafter/models/sequential_head.h"
#include "drafter/models/token_drawer.h"

namespace tandem::drafter {

class DSpark : public DraftModel {
 public:
  // `options` are within their limits. Copies what it needs of the checkpoint; borrows `pool`.
  static absl::StatusOr<std::unique_ptr<DSpark>> Create(const DraftCheckpoint& checkpoint,
                                                        const DraftModelOptions& options, ThreadPool& pool);

  const DraftModelInfo& info() const override { return info_; }
  kernels::KvLayout kv_layout() const override { return kv_layout_; }
  int32_t max_context_rows() const override { return max_context_rows_; }
  int32_t max_blocks() const override { return max_blocks_; }
  void AppendContext(std::span<const ContextRows> rows, kernels::KvCache& kv) override;
  void Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
             std::vector<DraftedBlock>& drafts) override;

  // Draft with another drawer.
  void DraftWith(const TokenDrawer& drawer, bool with_distributions, std::span<const DraftRequest> requests,
                 kernels::KvCache& kv, std::vector<DraftedBlock>& drafts);
  // Of the last Draft: h [requests * block_size, H], and base logits [.., drafts' vocabulary].
  std::span<const float> block_hidden() const;
  std::span<const float> base_logits() const;

 private:
  // Views into the work area; T = max_blocks * block_size.
  struct Buffers {
    float* context;  // [max_context_rows, H]
    float* x;        // [T, H]
    float* normed;   // [T, H]; in the end h
    float* base;     // [T, draft vocabulary]
  };
  // A request's place in the draws.
  struct Lane {
    DrawScratch scratch;
    std::vector<float> values;  // of the candidates
    std::vector<int32_t> ids;
  };

  DSpark(const DraftCheckpoint& checkpoint, const DraftModelOptions& options, ThreadPool& pool);

  absl::Status Load(const DraftCheckpoint& checkpoint, const DraftModelOptions& options);
  absl::Status Allocate();
  // The block's rows through all layers; leaves h and the base logits.
  void Backbone(std::span<const DraftRequest> requests, kernels::KvCache& kv);
  void BaseLogits();
  void DrawPosition(int32_t k, const TokenDrawer& drawer, bool with_distributions,
                    std::span<const DraftRequest> requests, std::vector<DraftedBlock>& drafts);
  // Of position k after the head's step; changes the request's row of bias_.
  DraftLogits LogitsOf(int32_t request, int32_t k);
  DraftLogits ScoreTopCandidates(int32_t request, std::span<const float> base);

  // Constant after Create.
  ThreadPool& pool_;
  const int32_t hidden_, num_layers_, block_size_, mask_token_id_, max_context_rows_, max_blocks_,
      markov_top_k_;
  const float eps_, embedding_scale_, logit_softcap_;
  const kernels::KvLayout kv_layout_;
  DraftModelInfo info_;
  std::vector<DraftLayerWeights> layers_;
  VocabularyWeights vocabulary_;
  std::vector<float> final_norm_;         // [H]
  std::unique_ptr<SequentialHead> head_;  // null for DFlash

  // Overwritten by every call.
  std::unique_ptr<DraftLayerPass> pass_;
  models::WorkArea work_area_;
  Buffers buffers_ = {};
  DraftRows rows_;
  std::vector<int32_t> tokens_;    // block input
  std::vector<int32_t> previous_;  // per request
  float* bias_ = nullptr;          // the head's, where it scores the whole vocabulary
  std::vector<kernels::GemmOutput> products_;
  std::vector<Lane> lanes_;
};

}  // namespace tandem::drafter
