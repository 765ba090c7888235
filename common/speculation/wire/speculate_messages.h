// speculate.proto's messages to plain values and back. Here every number of a peer is checked before anything
// uses it as an index, a size or a bound; errors are kInvalidArgument and name field, limit and value.
//
// Checked here is what a message shows by itself, given a few constants of the stream. What depends on the
// stream's history (numbers that rise by one, credit, epochs) is checked where that history lives: the
// drafter's engine for feeds, BatchOrder below for batches.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/message_socket.h"
#include "common/speculation/messages.h"
#include "tandem/v1/speculate.pb.h"

namespace tandem::speculation {

// Limits of hellos; of feeds and batches.
inline constexpr int32_t kMaxVocabSize = 1 << 24;
inline constexpr int32_t kMaxWidth = 1 << 20;  // hidden_size, row_width
inline constexpr int32_t kMaxLayers = 4096;
inline constexpr int32_t kMaxTaps = 256;
inline constexpr int32_t kMaxPositions = 1 << 24;
inline constexpr size_t kMaxNameBytes = 128;
inline constexpr int kMaxFeedEntries = 65536;
inline constexpr int kMaxBatchEntries = 65536;
inline constexpr int64_t kMaxCounter = int64_t{1} << 62;  // row numbers, rows granted

// Largest message of either direction: a projection chunk, or about as many rows.
inline constexpr int kMaxSpeculateMessageBytes = 4 << 20;

void FillHello(const VerifierHello& hello, v1::SpeculateHello& out);
absl::StatusOr<VerifierHello> ReadHello(const v1::SpeculateHello& message);
void FillHello(const DrafterHello& hello, v1::DrafterHello& out);
absl::StatusOr<DrafterHello> ReadHello(const v1::DrafterHello& message);

void FillRing(const RingAddress& ring, v1::RingOffer& out);
// What has the range of a ring at all; RowRingReader::Open judges the rest.
absl::StatusOr<RingAddress> ReadRing(const v1::RingOffer& message);

void FillSocket(const rpc::SocketAddress& socket, v1::SocketOffer& out);
// What has the size of an address at all; rpc::MessageSocket::Connect judges the rest.
absl::StatusOr<rpc::SocketAddress> ReadSocket(const v1::SocketOffer& message);

struct FeedBounds {
  int32_t vocab_size = 0;
  int64_t max_context_rows = 0;  // of one sequence
  int64_t row_bytes = 0;         // 0: rows carry no values
  bool inline_rows = true;       // else they lie in a ring and `rows` is empty
};
void FillFeed(const Feed& feed, v1::Feed& out);
// All or nothing: the verifier is the authority, what of a feed is wrong cannot be told apart.
absl::StatusOr<Feed> ReadFeed(const v1::Feed& message, const FeedBounds& bounds);

struct BatchBounds {
  int32_t vocab_size = 0;
  int32_t block_size = 0;
  bool has_confidence = false;
  AcceptanceMode acceptance = AcceptanceMode::kCoupled;
  int32_t top_m = 0;
};
// Checks that an entry of a batch can fail, as labels of protocol_errors_total: "token_count", "token_id",
// "length", "confidence", "distribution", "have".
const std::vector<std::string>& BatchEntryChecks();

struct CheckedBatch {
  DraftBatch batch;
  std::vector<std::string> dropped;  // one check per entry that was left out
};
void FillBatch(const DraftBatch& batch, v1::DraftBatch& out);
// Entries that fail a check are left out. kInvalidArgument for what makes the batch malformed as a whole.
absl::StatusOr<CheckedBatch> ReadBatch(const v1::DraftBatch& message, const BatchBounds& bounds);

// What successive batches of one stream must hold.
class BatchOrder {
 public:
  explicit BatchOrder(int64_t rows_granted) : rows_granted_(rows_granted) {}
  // Numbers rise by one, credit never falls, feed_number is of a feed that was sent and never falls.
  absl::Status Check(const DraftBatch& batch, uint64_t last_feed_sent);

 private:
  uint64_t number_ = 0, feed_number_ = 0;
  int64_t rows_granted_;
};

}  // namespace tandem::speculation
