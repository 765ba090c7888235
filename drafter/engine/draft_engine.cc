// Streams and what they bring; draft_engine_step.cc makes drafts of it.
#include "drafter/engine/draft_engine.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "common/base/status.h"
#include "common/kernels/half.h"

namespace tandem::drafter {
namespace {

using kernels::kKvBlockPositions;

constexpr int64_t kMaxPositions = 1 << 24;
constexpr int64_t kMaxBlocks = std::numeric_limits<int32_t>::max() / kKvBlockPositions;

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
    const int64_t least = static_cast<int64_t>(ContextBlocks::For(model.info().block_size + 1)) + 1;
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
