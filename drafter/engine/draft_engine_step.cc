// A step: rows into the model, drafts out of it; and the memory that both need.
#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "common/base/status.h"
#include "drafter/engine/draft_engine.h"

namespace tandem::drafter {

using kernels::kKvBlockPositions;

bool DraftEngine::HasWork() const {
  return std::ranges::any_of(
      streams_, [](const auto& entry) { return entry.second.news || !entry.second.active.empty(); });
}

std::vector<std::pair<StreamId, speculation::DraftBatch>> DraftEngine::Step() {
  AppendRows();
  DraftBlocks();
  for (auto& [id, stream] : streams_) {
    std::erase_if(stream.active, [&stream = stream](uint64_t name) {
      Context& context = stream.contexts.at(name);
      context.listed = context.due || context.pending > 0;
      return !context.listed;
    });
  }
  const auto next = streams_.upper_bound(turn_);
  turn_ = next == streams_.end() ? 0 : next->first;
  return CollectBatches();
}

std::vector<DraftEngine::Request> DraftEngine::InTurns() {
  std::vector<Stream*> order;
  const auto first = streams_.upper_bound(turn_);
  for (auto it = first; it != streams_.end(); ++it) order.push_back(&it->second);
  for (auto it = streams_.begin(); it != first; ++it) order.push_back(&it->second);
  std::vector<Request> turns;
  for (size_t round = 0, added = 1; added > 0; ++round) {
    added = 0;
    for (Stream* stream : order) {
      if (round >= stream->active.size()) continue;
      turns.push_back({stream, &stream->contexts.at(stream->active[round])});
      ++added;
    }
  }
  return turns;
}

void DraftEngine::AppendRows() {
  std::vector<Request> turns = InTurns();
  std::ranges::stable_partition(turns, [](const Request& request) { return request.context->due; });
  int32_t budget = model_.max_context_rows();
  std::vector<Piece> pieces;
  for (const auto& [stream, context] : turns) {
    if (budget == 0) break;
    UseSharedBlocks(*stream, *context);
    const int32_t num_rows = std::min(budget, context->pending);
    if (num_rows == 0) continue;
    if (!Reserve(*context, context->computed + num_rows)) {
      Lose(*stream, *context);
      continue;
    }
    pieces.push_back({stream, context, num_rows});
    budget -= num_rows;
  }
  if (pieces.empty()) return;

  std::vector<ContextRows> rows;
  for (const auto& [stream, context, num_rows] : pieces) {
    rows.push_back({.blocks = context->blocks,
                    .first_position = context->computed,
                    .num_rows = num_rows,
                    .rows = width_ > 0 ? context->pending_rows.data() : nullptr,
                    .tokens = std::span(context->tokens).subspan(context->computed, num_rows + 1)});
  }
  model_.AppendContext(rows, *kv_);
  for (const auto& [stream, context, num_rows] : pieces) {
    context->computed += num_rows;
    context->pending -= num_rows;
    context->pending_rows.erase(context->pending_rows.begin(),
                                context->pending_rows.begin() + int64_t{num_rows} * width_);
    stream->rows_pending -= num_rows;
    stream->news = true;  // credit
    stats_.rows += num_rows;
  }
  for (const Piece& piece : pieces) PublishBlocks(*piece.stream, *piece.context);
}

ChainHash DraftEngine::ChainOf(const Stream& stream, const Context& context, size_t block) const {
  const ChainHash before = block == 0 ? ChainHash{stream.id, 0} : context.chain[block - 1];
  return ExtendChain(before,
                     std::span(context.tokens).subspan(block * kKvBlockPositions, kKvBlockPositions + 1));
}

// Pending rows that another sequence of the stream has had computed.
void DraftEngine::UseSharedBlocks(Stream& stream, Context& context) {
  if (!paged_) return;
  while (context.computed % kKvBlockPositions == 0 && context.pending >= kKvBlockPositions) {
    const ChainHash chain = ChainOf(stream, context, context.blocks.size());
    const std::optional<int32_t> block = blocks_.FindShared(chain);
    if (!block) return;
    context.blocks.push_back(*block);
    context.chain.push_back(chain);
    context.computed += kKvBlockPositions;
    context.pending -= kKvBlockPositions;
    context.pending_rows.erase(context.pending_rows.begin(),
                               context.pending_rows.begin() + int64_t{kKvBlockPositions} * width_);
    stream.rows_pending -= kKvBlockPositions;
    stream.news = true;
    stats_.shared_rows += kKvBlockPositions;
  }
}

// Blocks that have become full are shared from now on; equal ones become one.
void DraftEngine::PublishBlocks(const Stream& stream, Context& context) {
  if (!paged_) return;
  const size_t full = context.computed / kKvBlockPositions;
  for (size_t i = context.chain.size(); i < full; ++i) {
    const ChainHash chain = ChainOf(stream, context, i);
    context.chain.push_back(chain);
    if (const std::optional<int32_t> shared = blocks_.FindShared(chain)) {
      blocks_.Release(context.blocks[i]);
      context.blocks[i] = *shared;
    } else {
      blocks_.Publish(context.blocks[i], chain);
    }
  }
}

void DraftEngine::DraftBlocks() {
  std::vector<Request> due = PickDue();
  while (!due.empty()) {  // once, unless streams draw in different ways
    const DrawMode mode = due.front().stream->setup.mode;
    const auto rest = std::ranges::stable_partition(due, [&](const Request& request) {
      const DrawMode& other = request.stream->setup.mode;
      return other.acceptance == mode.acceptance && other.top_m == mode.top_m;
    });
    DraftWith(mode, std::span(due.begin(), rest.begin()));
    due.erase(due.begin(), rest.begin());
  }
}

std::vector<DraftEngine::Request> DraftEngine::PickDue() {
  std::vector<Request> picked;
  for (const Request& request : InTurns()) {
    if (static_cast<int32_t>(picked.size()) == model_.max_blocks()) break;
    Context& context = *request.context;
    if (!context.due || context.pending > 0) continue;
    if (!Reserve(context, context.computed + model_.info().block_size)) {
      TrimBlocks(context, context.computed);
      if (!picked.empty()) break;  // when these have been served they can give way
      Lose(*request.stream, context);
      continue;
    }
    picked.push_back(request);
  }
  return picked;
}

void DraftEngine::DraftWith(const DrawMode& mode, std::span<const Request> requests) {
  std::vector<DraftRequest> wanted;
  for (const auto& [stream, context] : requests) {
    wanted.push_back({.blocks = context->blocks,
                      .context = context->tokens,
                      .start = context->computed,
                      .id = context->id,
                      .epoch = context->epoch,
                      .round = context->round,
                      .sampling = context->sampling});
  }
  model_.Draft(mode, wanted, *kv_, drafted_);
  TANDEM_CHECK(drafted_.size() == requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& [stream, context] = requests[i];
    speculation::SequenceDraft draft;
    draft.id = context->id;
    draft.epoch = context->epoch;
    draft.length = context->computed + 1;
    draft.anchor = context->tokens.back();
    draft.round = context->round;
    draft.tokens = std::move(drafted_[i].tokens);
    draft.confidence_logits = std::move(drafted_[i].confidence_logits);
    draft.distributions = std::move(drafted_[i].distributions);
    ++stats_.drafts;
    stats_.draft_tokens += static_cast<int64_t>(draft.tokens.size());
    stream->drafts.push_back(std::move(draft));
    stream->news = true;
    context->due = false;
    context->last_used = ++tick_;
    TrimBlocks(*context, context->computed);
  }
}

std::vector<std::pair<StreamId, speculation::DraftBatch>> DraftEngine::CollectBatches() {
  std::vector<std::pair<StreamId, speculation::DraftBatch>> batches;
  for (auto& [id, stream] : streams_) {
    if (!std::exchange(stream.news, false)) continue;
    speculation::DraftBatch batch;
    batch.feed_number = stream.feed_number;
    batch.drafts = std::exchange(stream.drafts, {});
    batch.out_of_sync = std::exchange(stream.out_of_sync, {});
    batch.rows_granted = RowsGranted(stream);
    batches.emplace_back(id, std::move(batch));
  }
  return batches;
}

// --- Memory ---

bool DraftEngine::Reserve(Context& context, int32_t positions) {
  if (!paged_) return true;
  const size_t tail = context.computed / kKvBlockPositions;
  if (tail < context.blocks.size() && !blocks_.IsExclusive(context.blocks[tail])) {
    if (blocks_.references(context.blocks[tail]) == 1) {
      blocks_.Withdraw(context.blocks[tail]);
    } else {
      const std::optional<int32_t> copy = TakeBlock();
      if (!copy) return false;
      std::memcpy(kv_->block(*copy), kv_->block(context.blocks[tail]), kv_->layout().block_bytes);
      blocks_.Release(context.blocks[tail]);
      context.blocks[tail] = *copy;
    }
  }
  while (context.blocks.size() < ContextBlocks::For(positions)) {
    const std::optional<int32_t> block = TakeBlock();
    if (!block) return false;
    context.blocks.push_back(*block);
  }
  return true;
}

std::optional<int32_t> DraftEngine::TakeBlock() {
  for (;;) {
    if (const std::optional<int32_t> block = blocks_.Take()) return block;
    Stream* stream = nullptr;
    Context* oldest = nullptr;
    for (auto& [id, candidates] : streams_) {
      for (auto& [name, context] : candidates.contexts) {
        if (context.blocks.empty() || context.due || context.pending > 0) continue;
        if (oldest != nullptr && oldest->last_used < context.last_used) continue;
        stream = &candidates;
        oldest = &context;
      }
    }
    if (oldest == nullptr) return std::nullopt;
    Truncate(*stream, *oldest, 0);  // the verifier hears so when it feeds it again
    ++stats_.evictions;
  }
}

void DraftEngine::TrimBlocks(Context& context, int32_t positions) {
  if (!paged_) return;
  while (context.blocks.size() > ContextBlocks::For(positions)) {
    blocks_.Release(context.blocks.back());
    context.blocks.pop_back();
  }
}

void DraftEngine::Lose(Stream& stream, Context& context) {
  Truncate(stream, context, 0);
  AnswerOutOfSync(stream, context);
  ++stats_.evictions;
}

}  // namespace tandem::drafter
