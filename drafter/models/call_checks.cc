#include "drafter/models/call_checks.h"

#include "common/base/status.h"

namespace tandem::drafter {
namespace {

// Positions [0, end) lie within the model's limit, and the table has a block for each.
void CheckTable(const DraftModel& model, std::span<const int32_t> blocks, int64_t end,
                const kernels::KvCache& kv) {
  TANDEM_CHECK(end <= model.info().max_positions);
  const int64_t needed = (end + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
  TANDEM_CHECK(static_cast<int64_t>(blocks.size()) >= needed);
  for (const int32_t block : blocks.first(needed)) TANDEM_CHECK(block >= 0 && block < kv.num_blocks());
}

void CheckLayout(const DraftModel& model, const kernels::KvCache& kv) {
  const kernels::KvLayout layout = model.kv_layout();
  TANDEM_CHECK(kv.layout().type == layout.type && kv.layout().block_bytes == layout.block_bytes &&
               kv.layout().layer_offset == layout.layer_offset);
}

void CheckTokens(const DraftModel& model, std::span<const int32_t> tokens) {
  for (const int32_t token : tokens) TANDEM_CHECK(token >= 0 && token < model.info().vocab_size);
}

}  // namespace

void CheckContextRows(const DraftModel& model, std::span<const ContextRows> rows,
                      const kernels::KvCache& kv) {
  CheckLayout(model, kv);
  int64_t total = 0;
  for (const ContextRows& part : rows) {
    TANDEM_CHECK(part.first_position >= 0 && part.num_rows >= 0);
    TANDEM_CHECK(part.rows != nullptr || part.num_rows == 0);
    TANDEM_CHECK(static_cast<int64_t>(part.tokens.size()) == int64_t{part.num_rows} + 1);
    CheckTokens(model, part.tokens);
    CheckTable(model, part.blocks, int64_t{part.first_position} + part.num_rows, kv);
    total += part.num_rows;
  }
  TANDEM_CHECK(total <= model.max_context_rows());
}

void CheckDraftRequests(const DraftModel& model, std::span<const DraftRequest> requests,
                        const kernels::KvCache& kv) {
  CheckLayout(model, kv);
  TANDEM_CHECK(static_cast<int64_t>(requests.size()) <= model.max_blocks());
  for (const DraftRequest& request : requests) {
    TANDEM_CHECK(request.start >= 0);
    TANDEM_CHECK(static_cast<int64_t>(request.context.size()) == int64_t{request.start} + 1);
    CheckTokens(model, request.context.last(1));
    CheckTable(model, request.blocks, int64_t{request.start} + model.info().block_size, kv);
  }
}

void StartDrafts(size_t count, int32_t block_size, bool with_distributions,
                 std::vector<DraftedBlock>& drafts) {
  drafts.resize(count);
  for (DraftedBlock& block : drafts) {
    block.tokens.clear();
    block.tokens.reserve(block_size);
    block.confidence_logits.clear();
    block.confidence_logits.reserve(block_size);
    block.distributions.clear();
    if (with_distributions) block.distributions.resize(block_size);
  }
}

}  // namespace tandem::drafter
