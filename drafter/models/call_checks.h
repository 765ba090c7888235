// What the engine owes a draft model's calls (draft_model.h), checked before anything is computed: a
// violation is our own bug and ends the process.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "drafter/models/draft_model.h"

namespace tandem::drafter {

void CheckContextRows(const DraftModel& model, std::span<const ContextRows> rows, const kernels::KvCache& kv);
void CheckDraftRequests(const DraftModel& model, std::span<const DraftRequest> requests,
                        const kernels::KvCache& kv);

// `drafts` becomes `count` empty blocks with room for block_size tokens.
void StartDrafts(size_t count, int32_t block_size, bool with_distributions,
                 std::vector<DraftedBlock>& drafts);

}  // namespace tandem::drafter
