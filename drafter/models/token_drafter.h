// What drafters have in common that look at token ids alone: no rows, no memory per position, no device.
//
// In rejection mode a proposal made without chance has the distribution that is 1 at it, which is what they
// send: the rule is then exact as for any other drafter.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "drafter/models/draft_model.h"

namespace tandem::drafter {

class TokenDrafter : public DraftModel {
 public:
  const DraftModelInfo& info() const override { return info_; }
  kernels::KvLayout kv_layout() const override { return {}; }
  int32_t max_context_rows() const override { return 1 << 20; }
  int32_t max_blocks() const override { return 4096; }

  void AppendContext(std::span<const ContextRows> rows, kernels::KvCache& kv) override;
  void Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
             std::vector<DraftedBlock>& drafts) override;

 protected:
  // Fills 1..block_size tokens and, if info says so, as many confidence logits.
  virtual void Propose(const DraftRequest& request, DraftedBlock& block) = 0;

  DraftModelInfo info_;  // constant after construction
};

}  // namespace tandem::drafter
