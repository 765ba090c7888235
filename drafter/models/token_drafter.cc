#include "drafter/models/token_drafter.h"

#include "common/base/status.h"

namespace tandem::drafter {

void TokenDrafter::AppendContext(std::span<const ContextRows>, kernels::KvCache&) {}

void TokenDrafter::Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache&,
                         std::vector<DraftedBlock>& drafts) {
  drafts.assign(requests.size(), {});
  for (size_t i = 0; i < requests.size(); ++i) {
    DraftedBlock& block = drafts[i];
    Propose(requests[i], block);
    TANDEM_CHECK(!block.tokens.empty() && static_cast<int32_t>(block.tokens.size()) <= info_.block_size);
    if (mode.acceptance == speculation::AcceptanceMode::kCoupled) continue;
    for (const int32_t token : block.tokens) block.distributions.push_back({{token, 1.0f}});
  }
}

}  // namespace tandem::drafter
