#include "drafter/engine/draft_engine.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "common/base/status.h"
#include "common/kernels/half.h"

namespace tandem::drafter {
namespace {

using kernels::kKvBlockPositions;

constexpr int64_t kMaxPositions = 1 << 24;
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max() / kKvBlockPositions;

size_t BlocksFor(int32_t positions) {
  return (static_cast<size_t>(positions) + kKvBlockPositions - 1) / kKvBlockPositions;
}

void Widen(std::span<const std::byte> bytes, speculation::RowType type, std::vector<float>& out) {
  const size_t at = out.size(), count = bytes.size() / speculation::RowTypeBytes(type);
  out.resize(at + count);
  if (type == speculation::RowType::kF32) {
    std::memcpy(out.data() + at, bytes.data(), bytes.size());
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + i * sizeof bits, sizeof bits);
    out[at + i] = kernels::FloatFromBF16(bits);
  }
}

int64_t NumRows(const speculation::Feed& feed) {
  int64_t rows = 0;
  for (const speculation::SequenceFeed& entry : feed.sequences) rows += entry.num_rows;
  return rows;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DraftEngine>> DraftEngine::Create(const DraftEngineOptions& options,
                                                                 DraftModel& model) {
  kernels::KvLayout layout = model.kv_layout();
  int64_t num_blocks = 1;
  if (layout.layers.empty()) {  // the model takes a cache and leaves it alone
    layout = kernels::KvLayout::Create(kernels::KvType::kF32, {{1, 8}});
  } else {
    num_blocks = std::min(options.kv_bytes / layout.block_bytes, kMaxBlocks);
    // A block of drafts, the row before it, and one block for copying a shared tail.
    const int64_t least = static_cast<int64_t>(BlocksFor(model.info().block_size + 1)) + 1;
    if (num_blocks < least) {
      return ResourceExhausted("kv-bytes: {} bytes hold {} blocks of {} bytes, at least {} are needed",
                               options.kv_bytes, num_blocks, layout.block_bytes, least);
    }
  }
  ASSIGN_OR_RETURN(std::unique_ptr<kernels::KvCache> kv,
                   kernels::KvCache::Create(std::move(layout), static_cast<int>(num_blocks)));
  return std::unique_ptr<DraftEngine>(new DraftEngine(options, model, std::move(kv)));
}

DraftEngine::DraftEngine(const DraftEngineOptions& options, DraftModel& model,
                         std::unique_ptr<kernels::KvCache> kv)
    : options_(options),
      model_(model),
      width_(model.info().projection.width),
      paged_(!model.kv_layout().layers.empty()),
      kv_(std::move(kv)),
      blocks_(kv_->num_blocks()),
      max_context_rows_([&] {
        int64_t rows = kMaxPositions;
        const int64_t drafts = model.info().block_size;
        if (model.info().max_positions > 0) rows = std::min(rows, model.info().max_positions - drafts);
        if (paged_) rows = std::min(rows, (kv_->num_blocks() - int64_t{1}) * kKvBlockPositions - drafts);
        return static_cast<int32_t>(rows);
      }()) {
  TANDEM_CHECK(max_context_rows_ >= 1);
}

void DraftEngine::OpenStream(StreamId stream, StreamSetup setup) {
  Stream opened;
  opened.id = stream;
  opened.setup = std::move(setup);
  TANDEM_CHECK(streams_.emplace(stream, std::move(opened)).second);
}

void DraftEngine::CloseStream(StreamId id) {
  const auto found = streams_.find(id);
  if (found == streams_.end()) return;
  for (auto& [name, context] : found->second.contexts) TrimBlocks(context, 0);
  streams_.erase(found);
}

// --- What arrives ---

int64_t DraftEngine::RowsGranted(const Stream& stream) const {
  return stream.rows_received - (width_ > 0 ? stream.rows_pending : 0) + options_.row_window;
}

absl::Status DraftEngine::CheckOrder(const Stream& stream, const speculation::Feed& feed) const {
  if (feed.number != stream.feed_number + 1)
    return InvalidArgument("feed.number must be {}, got {}", stream.feed_number + 1, feed.number);
  int64_t next = stream.rows_received;
  for (const speculation::SequenceFeed& entry : feed.sequences) {
    if (int64_t{entry.from} + entry.num_rows > max_context_rows_) {
      return InvalidArgument("sequence {} must have at most {} rows, got {} + {}", entry.id,
                             max_context_rows_, entry.from, entry.num_rows);
    }
    if (entry.num_rows == 0 || width_ == 0) continue;  // rows without values are not counted
    if (entry.first_row_number != next) {
      return InvalidArgument("first_row_number of sequence {} must be {}, got {}", entry.id, next,
                             entry.first_row_number);
    }
    next += entry.num_rows;
  }
  if (next > RowsGranted(stream)) {
    return InvalidArgument("feed {} brings rows up to {}, granted are {}", feed.number, next,
                           RowsGranted(stream));
  }
  if (stream.setup.rows == nullptr) {
    const int64_t bytes = NumRows(feed) * width_ * speculation::RowTypeBytes(stream.setup.row_type);
    if (static_cast<int64_t>(feed.rows.size()) != bytes)
      return InvalidArgument("feed.rows must have {} bytes, got {}", bytes, feed.rows.size());
  }
  return absl::OkStatus();
}

absl::Status DraftEngine::ApplyFeed(StreamId id, speculation::Feed feed) {
  const auto found = streams_.find(id);
  TANDEM_CHECK(found != streams_.end());
  Stream& stream = found->second;
  if (feed.number <= stream.feed_number) {  // repeats are no-ops
    ++stats_.stale;
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckOrder(stream, feed));
  stream.feed_number = feed.number;
  stream.news = true;

  // Forgetting comes after the entries. What is to be forgotten needs no room for them first.
  for (const speculation::SequenceName& name : feed.forgotten) {
    for (speculation::SequenceFeed& entry : feed.sequences) {
      if (entry.id == name.id && entry.epoch == name.epoch) entry.tokens.clear();
    }
    Forget(stream, name.id, name.epoch);
  }
  std::span<const std::byte> rows = feed.rows;
  const int64_t row_bytes =
      stream.setup.rows == nullptr ? width_ * speculation::RowTypeBytes(stream.setup.row_type) : 0;
  for (speculation::SequenceFeed& entry : feed.sequences) {
    const auto entry_rows = rows.first(entry.num_rows * row_bytes);
    rows = rows.subspan(entry_rows.size());
    if (width_ > 0) stream.rows_received += entry.num_rows;
    if (!entry.tokens.empty()) RETURN_IF_ERROR(ApplyEntry(stream, entry, entry_rows));
  }
  return absl::OkStatus();
}

absl::Status DraftEngine::ApplyEntry(Stream& stream, speculation::SequenceFeed& entry,
                                     std::span<const std::byte> rows) {
  auto found = stream.contexts.find(entry.id);
  if (found != stream.contexts.end() && entry.epoch < found->second.epoch) {
    ++stats_.stale;
    return absl::OkStatus();
  }
  if (found != stream.contexts.end() && entry.epoch > found->second.epoch) {
    Forget(stream, entry.id, found->second.epoch);
    found = stream.contexts.end();
  }
  if (found == stream.contexts.end()) {
    if (static_cast<int64_t>(stream.contexts.size()) >= options_.max_sequences) {
      return InvalidArgument("sequence {} is one more than the {} that a stream may keep here", entry.id,
                             options_.max_sequences);
    }
    found = stream.contexts.try_emplace(entry.id).first;
    found->second.id = entry.id;
    found->second.epoch = entry.epoch;
  }
  Context& context = found->second;
  context.last_used = ++tick_;
  if (entry.from > context.kept()) {
    AnswerOutOfSync(stream, context);
    return absl::OkStatus();
  }
  // The row before may depend on the token behind it, so a token that has changed takes that row with it.
  if (entry.from > 0 && context.tokens[entry.from] != entry.tokens[0]) {
    Truncate(stream, context, entry.from - 1);
    AnswerOutOfSync(stream, context);
    return absl::OkStatus();
  }
  Truncate(stream, context, entry.from);
  context.tokens.resize(entry.from);
  context.tokens.insert(context.tokens.end(), entry.tokens.begin(), entry.tokens.end());
  RETURN_IF_ERROR(TakeRows(stream, context, entry, rows));
  if (entry.sampling) context.sampling = *entry.sampling;
  context.told = false;
  context.due = entry.draft;
  context.round = entry.round;
  if (!context.listed && (context.due || context.pending > 0)) {
    context.listed = true;
    stream.active.push_back(context.id);
  }
  return absl::OkStatus();
}

void DraftEngine::AnswerOutOfSync(Stream& stream, Context& context) {
  context.due = false;
  // Feeds that were on their way need no further answer: the stream loses nothing.
  if (context.told) return;
  context.told = true;
  ++stats_.out_of_sync;
  stream.out_of_sync.push_back({context.id, context.epoch, context.kept()});
  stream.news = true;
}

absl::Status DraftEngine::TakeRows(Stream& stream, Context& context, const speculation::SequenceFeed& entry,
                                   std::span<const std::byte> rows) {
  if (width_ > 0 && entry.num_rows > 0) {
    if (stream.setup.rows != nullptr) {
      row_bytes_.resize(int64_t{entry.num_rows} * width_ * speculation::RowTypeBytes(stream.setup.row_type));
      RETURN_IF_ERROR(stream.setup.rows->Read(entry.first_row_number, entry.num_rows, row_bytes_));
      rows = row_bytes_;
    }
    Widen(rows, stream.setup.row_type, context.pending_rows);
  }
  context.pending += entry.num_rows;
  stream.rows_pending += entry.num_rows;
  return absl::OkStatus();
}

// Keeps the first `rows`, and the token behind them.
void DraftEngine::Truncate(Stream& stream, Context& context, int32_t rows) {
  TANDEM_CHECK(rows >= 0 && rows <= context.kept());
  if (rows < context.kept()) context.told = false;
  const int32_t pending = std::max(rows - context.computed, 0);
  stream.rows_pending -= context.pending - pending;
  context.pending = pending;
  context.pending_rows.resize(static_cast<size_t>(pending) * width_);
  context.computed = std::min(context.computed, rows);
  if (context.tokens.size() > static_cast<size_t>(rows) + 1) context.tokens.resize(rows + 1);
  TrimBlocks(context, context.computed);
  const size_t full = context.computed / kKvBlockPositions;
  if (context.chain.size() > full) context.chain.resize(full);
}

void DraftEngine::Forget(Stream& stream, uint64_t id, uint32_t epoch) {
  const auto found = stream.contexts.find(id);
  if (found == stream.contexts.end() || found->second.epoch > epoch) return;
  Truncate(stream, found->second, 0);
  if (found->second.listed) std::erase(stream.active, id);
  stream.contexts.erase(found);
}

// --- A step ---

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
  while (context.blocks.size() < BlocksFor(positions)) {
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
  while (context.blocks.size() > BlocksFor(positions)) {
    blocks_.Release(context.blocks.back());
    context.blocks.pop_back();
  }
}

void DraftEngine::Lose(Stream& stream, Context& context) {
  Truncate(stream, context, 0);
  AnswerOutOfSync(stream, context);
  ++stats_.evictions;
}

DraftEngineStats DraftEngine::stats() const {
  DraftEngineStats stats = stats_;
  stats.streams = static_cast<int64_t>(streams_.size());
  for (const auto& [id, stream] : streams_) {
    stats.sequences += static_cast<int64_t>(stream.contexts.size());
    for (const auto& [name, context] : stream.contexts)
      stats.worst_lag = std::max<int64_t>(stats.worst_lag, context.pending);
  }
  if (paged_) {
    stats.blocks_total = blocks_.total();
    stats.blocks_free = blocks_.free();
  }
  return stats;
}

}  // namespace tandem::drafter
