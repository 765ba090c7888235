// Contexts and drafts of all sequences of all verifiers, over one draft model. No threads, no time, no gRPC:
// draft_loop.h calls it.
//
//   engine.OpenStream(stream, setup);
//   engine.ApplyFeed(stream, feed);               // contexts extended, truncated, forgotten; drafts
//   requested while (engine.HasWork()) deliver(engine.Step());     // rows into the model, drafts out of it
//   engine.CloseStream(stream);                   // frees all of it
//
// A sequence's context, with kept = what the drafter holds of it:
//
//   rows:     computed | pending      computed ones are in the model's KV, pending ones wait for a step
//   tokens:   [0, computed + pending + 1); the last one has no row yet and is the anchor of a draft
//
//   feed.from <= kept     truncate to from, append
//   feed.from >  kept     OutOfSync{kept}, once until the verifier has gone back; nothing is applied
//   newer epoch           starts with nothing kept;   older epoch: stale, ignored
//
// When KV memory is short, the contexts used least recently that nothing waits for lose theirs: kept = 0, so
// their next feed is answered OutOfSync. A step takes rows of at most max_context_rows() and blocks of at
// most max_blocks(), streams in turn, within a stream in order of arrival; rows whose draft is requested come
// before others.
//
// Credit: a verifier may have sent `row_window` rows more than have gone into the model (rows_granted). Rows
// of models that need none (width 0) are neither numbered nor counted.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/kernels/kv_cache.h"
#include "common/speculation/messages.h"
#include "drafter/engine/context_blocks.h"
#include "drafter/models/draft_model.h"

namespace tandem::drafter {

// One verifier's stream for as long as it is open. Never reused.
using StreamId = uint64_t;

// Where rows lie that do not come with the feed. Called by the engine's thread.
class RowSource {
 public:
  virtual ~RowSource() = default;
  // Rows [first, first + count), count * row bytes.
  virtual absl::Status Read(int64_t first, int64_t count, std::span<std::byte> out) = 0;
};

struct DraftEngineOptions {
  int64_t kv_bytes = int64_t{256} << 20;  // of contexts; ignored by models that keep nothing per position
  int32_t max_sequences = 256;            // of one stream
  int64_t row_window = 4096;              // rows a stream may be ahead of the model
};

struct StreamSetup {
  speculation::RowType row_type = speculation::RowType::kBF16;
  DrawMode mode;
  std::unique_ptr<RowSource> rows;  // null: they come with the feeds
};

struct DraftEngineStats {
  int64_t streams = 0, sequences = 0;
  int64_t blocks_total = 0, blocks_free = 0;
  int64_t worst_lag = 0;  // pending rows of one sequence
  // Counters.
  int64_t drafts = 0, draft_tokens = 0, rows = 0, shared_rows = 0;
  int64_t out_of_sync = 0, stale = 0, evictions = 0;
};

class DraftEngine {
 public:
  // Borrows the model. kResourceExhausted if kv_bytes hold not even one block of drafts.
  static absl::StatusOr<std::unique_ptr<DraftEngine>> Create(const DraftEngineOptions& options,
                                                             DraftModel& model);

  const DraftEngineOptions& options() const { return options_; }
  const DraftModelInfo& info() const { return model_.info(); }
  // What one sequence can have here, by the model's positions and by memory.
  int32_t max_context_rows() const { return max_context_rows_; }

  void OpenStream(StreamId stream, StreamSetup setup);
  void CloseStream(StreamId stream);
  // An error ends the stream: the caller closes it. kInvalidArgument: the verifier broke the protocol (order
  // of feeds or rows, credit, too many sequences); else its rows could not be read. Everything by itself
  // (ids, sizes, bytes) must have been checked, as ReadFeed does.
  absl::Status ApplyFeed(StreamId stream, speculation::Feed feed);

  bool HasWork() const;
  // At most one batch per stream, for those that have news. Its number and time are for the caller to fill
  // in.
  std::vector<std::pair<StreamId, speculation::DraftBatch>> Step();

  DraftEngineStats stats() const;

 private:
  struct Context {
    uint64_t id = 0;
    uint32_t epoch = 0;
    uint32_t round = 0;
    bool due = false;     // a draft is requested
    bool listed = false;  // in the stream's `active`
    bool told = false;    // out of sync, and the verifier knows of `kept`
    int32_t computed = 0;
    int32_t pending = 0;
    std::vector<float> pending_rows;  // [pending, width]
    std::vector<int32_t> tokens;
    std::vector<int32_t> blocks;   // of the computed rows; while drafting also of the block
    std::vector<ChainHash> chain;  // by full block
    speculation::DraftSampling sampling;
    uint64_t last_used = 0;

    int32_t kept() const { return computed + pending; }
  };
  struct Stream {
    StreamId id = 0;
    StreamSetup setup;
    std::unordered_map<uint64_t, Context> contexts;  // by id; references stay valid
    std::vector<uint64_t> active;                    // have pending rows or are due, in order of arrival
    std::vector<speculation::OutOfSync> out_of_sync;
    std::vector<speculation::SequenceDraft> drafts;
    uint64_t feed_number = 0;
    int64_t rows_received = 0;
    int64_t rows_pending = 0;
    bool news = false;
  };
  // One sequence's part of an AppendContext.
  struct Piece {
    Stream* stream;
    Context* context;
    int32_t num_rows;
  };
  struct Request {
    Stream* stream;
    Context* context;
  };

  DraftEngine(const DraftEngineOptions& options, DraftModel& model, std::unique_ptr<kernels::KvCache> kv);

  int64_t RowsGranted(const Stream& stream) const;
  absl::Status CheckOrder(const Stream& stream, const speculation::Feed& feed) const;
  absl::Status ApplyEntry(Stream& stream, speculation::SequenceFeed& entry, std::span<const std::byte> rows);
  void AnswerOutOfSync(Stream& stream, Context& context);
  absl::Status TakeRows(Stream& stream, Context& context, const speculation::SequenceFeed& entry,
                        std::span<const std::byte> rows);
  void Truncate(Stream& stream, Context& context, int32_t rows);
  void Forget(Stream& stream, uint64_t id, uint32_t epoch);

  // Active contexts, streams in turn.
  std::vector<Request> InTurns();
  void AppendRows();
  void UseSharedBlocks(Stream& stream, Context& context);
  void PublishBlocks(const Stream& stream, Context& context);
  void DraftBlocks();
  void DraftWith(const DrawMode& mode, std::span<const Request> requests);
  std::vector<Request> PickDue();
  std::vector<std::pair<StreamId, speculation::DraftBatch>> CollectBatches();

  // Blocks for positions [0, positions), the first uncomputed one writable; false: no memory.
  bool Reserve(Context& context, int32_t positions);
  std::optional<int32_t> TakeBlock();
  void TrimBlocks(Context& context, int32_t positions);
  // Keeps nothing of it any more; the verifier hears so.
  void Lose(Stream& stream, Context& context);

  ChainHash ChainOf(const Stream& stream, const Context& context, size_t block) const;

  const DraftEngineOptions options_;
  DraftModel& model_;
  const int32_t width_;
  const bool paged_;
  const std::unique_ptr<kernels::KvCache> kv_;
  ContextBlocks blocks_;
  const int32_t max_context_rows_;

  std::map<StreamId, Stream> streams_;
  StreamId turn_ = 0;  // streams behind it come first
  uint64_t tick_ = 0;  // of use, for eviction
  std::vector<std::byte> row_bytes_;
  std::vector<DraftedBlock> drafted_;
  DraftEngineStats stats_;
};

}  // namespace tandem::drafter
