// Eagle3: one layer that drafts token by token, from the target's hidden states first and its own after.
//
//   u = [RmsNorm(embedding of a token) ; RmsNorm(g)]
//   out = g, through the layer (draft_layer.h) with a = u;  logits = Whead RmsNorm(out)
//
// Context position i pairs the verifier's row i (g = fc * taps, no norm) with the token at i + 1, and its out
// would predict the token at i + 2. So draft 1 comes from the last context row with the anchor, and draft k
// from g = the out before, the token of draft k - 1 and position start + k - 2.
//
// K and V of context rows are kept; of g, which the first draft needs of the last row, each position keeps a
// copy in a second layer of the KV layout, which no attention reads. With bf16 KV that copy is rounded:
// without loss where rows arrive in bf16; with int8 KV it is int8, too.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "common/models/work_area.h"
#include "drafter/models/draft_layer.h"
#include "drafter/models/draft_model.h"
#include "drafter/models/token_drawer.h"

namespace tandem::drafter {

class Eagle3 : public DraftModel {
 public:
  // As DSpark's. markov_top_k has no meaning here.
  static absl::StatusOr<std::unique_ptr<Eagle3>> Create(const DraftCheckpoint& checkpoint,
                                                        const DraftModelOptions& options, ThreadPool& pool);

  const DraftModelInfo& info() const override { return info_; }
  kernels::KvLayout kv_layout() const override { return kv_layout_; }
  int32_t max_context_rows() const override { return max_context_rows_; }
  int32_t max_blocks() const override { return max_blocks_; }
  void AppendContext(std::span<const ContextRows> rows, kernels::KvCache& kv) override;
  // start >= 1: without a context there is nothing to draft from.
  void Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
             std::vector<DraftedBlock>& drafts) override;

  // Draft with another drawer.
  void DraftWith(const TokenDrawer& drawer, bool with_distributions, std::span<const DraftRequest> requests,
                 kernels::KvCache& kv, std::vector<DraftedBlock>& drafts);
  // While a drawer is asked for draft k: out of that step [requests, H].
  const float* out() const { return buffers_.g; }

 private:
  // Views into the work area; R = max_context_rows or max_blocks, whichever is more.
  struct Buffers {
    float* g;         // [R, H] hidden states; become out
    float* embedded;  // [R, H]
    float* input;     // [R, 2 H] u
    float* normed;    // [R, H]
    float* halves;    // [R, 2 * stored_half]
    float* logits;    // [max_blocks, draft vocabulary]
  };

  Eagle3(const DraftCheckpoint& checkpoint, const DraftModelOptions& options, ThreadPool& pool);

  absl::Status Load(const DraftCheckpoint& checkpoint, const DraftModelOptions& options);
  absl::Status Allocate();
  // u of the rows' g and tokens_, loaded as the layer's input.
  void LoadLayerInput();
  // A copy of g per position, and back.
  void StoreHidden(kernels::KvCache& kv);
  void ReadLastHidden(std::span<const DraftRequest> requests, const kernels::KvCache& kv);
  // The layer over rows_, one per request; leaves out in g, and the logits.
  void Step(int32_t k, kernels::KvCache& kv);

  // Constant after Create.
  ThreadPool& pool_;
  const int32_t hidden_, stored_half_, block_size_, max_context_rows_, max_blocks_;
  const float eps_, embedding_scale_, logit_softcap_;
  const kernels::KvLayout kv_layout_;
  DraftModelInfo info_;
  DraftLayerWeights layer_;
  std::vector<float> hidden_norm_, final_norm_;  // [H]
  VocabularyWeights vocabulary_;

  // Overwritten by every call.
  std::unique_ptr<DraftLayerPass> pass_;
  models::WorkArea work_area_;
  Buffers buffers_ = {};
  DraftRows rows_;
  std::vector<int32_t> tokens_;  // per row
  std::vector<DrawScratch> scratch_;
};

}  // namespace tandem::drafter
