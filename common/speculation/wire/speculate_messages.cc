#include "common/speculation/wire/speculate_messages.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "common/rpc/grpc_status.h"
#include "common/speculation/wire/field_checks.h"

namespace tandem::speculation {
namespace {

constexpr double kMaxProbabilitySum = 1.001;

void FillSampling(const DraftSampling& sampling, v1::DraftSampling& out) {
  out.set_seed(sampling.seed);
  out.set_temperature(sampling.temperature);
  out.set_top_k(static_cast<uint32_t>(sampling.top_k));
  out.set_top_p(sampling.top_p);
  out.set_min_p(sampling.min_p);
}

absl::StatusOr<DraftSampling> ReadSampling(const v1::DraftSampling& message) {
  DraftSampling sampling;
  sampling.seed = message.seed();
  sampling.temperature = message.temperature();
  if (!(sampling.temperature >= 0) || !std::isfinite(sampling.temperature))
    return InvalidArgument("sampling.temperature must be finite and not negative, got {}",
                           sampling.temperature);
  RETURN_IF_ERROR(CheckRange("sampling.top_k", message.top_k(), 0, kInt32Max));
  sampling.top_k = static_cast<int32_t>(message.top_k());
  sampling.top_p = message.top_p();
  if (!(sampling.top_p > 0 && sampling.top_p <= 1))
    return InvalidArgument("sampling.top_p must be in (0, 1], got {}", sampling.top_p);
  sampling.min_p = message.min_p();
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1))
    return InvalidArgument("sampling.min_p must be in [0, 1], got {}", sampling.min_p);
  return sampling;
}

absl::StatusOr<SequenceFeed> ReadSequence(const v1::SequenceFeed& message, const FeedBounds& bounds) {
  const int64_t from = message.from(), num_rows = message.num_rows();
  RETURN_IF_ERROR(CheckRange("from", from, 0, bounds.max_context_rows));
  RETURN_IF_ERROR(CheckRange("from + num_rows", from + num_rows, 0, bounds.max_context_rows));
  RETURN_IF_ERROR(CheckCounter("first_row_number", message.first_row_number()));
  if (message.token_ids_size() != num_rows + 1) {
    return InvalidArgument("token_ids' count must be num_rows + 1 = {}, got {}", num_rows + 1,
                           message.token_ids_size());
  }
  RETURN_IF_ERROR(CheckTokens("token_ids", message.token_ids(), bounds.vocab_size));
  if (from == 0 && !message.has_sampling()) return InvalidArgument("sampling is missing with from = 0");
  if (message.draft()) RETURN_IF_ERROR(CheckRange("round", message.round(), 1, kUint32Max));
  SequenceFeed entry;
  if (message.has_sampling()) {
    ASSIGN_OR_RETURN(entry.sampling, ReadSampling(message.sampling()));
  }
  entry.id = message.id();
  entry.epoch = message.epoch();
  entry.from = static_cast<int32_t>(from);
  entry.num_rows = static_cast<int32_t>(num_rows);
  entry.first_row_number = static_cast<int64_t>(message.first_row_number());
  entry.tokens.assign(message.token_ids().begin(), message.token_ids().end());
  entry.draft = message.draft();
  entry.round = message.round();
  return entry;
}

bool ReadDistribution(const v1::DraftDistribution& message, const BatchBounds& bounds, int32_t token,
                      std::vector<TokenProbability>& out) {
  const int size = message.token_ids_size();
  if (size < 1 || size > bounds.top_m || message.probabilities_size() != size) return false;
  double sum = 0;
  bool has_token = false;
  for (int i = 0; i < size; ++i) {
    const int32_t id = message.token_ids(i);
    const float probability = message.probabilities(i);
    if (id < 0 || id >= bounds.vocab_size) return false;
    if (!std::isfinite(probability) || probability < 0) return false;
    sum += probability;
    has_token = has_token || (id == token && probability > 0);
    out.push_back({id, probability});
  }
  std::vector<int32_t> ids(message.token_ids().begin(), message.token_ids().end());
  std::ranges::sort(ids);
  const bool unique = std::ranges::adjacent_find(ids) == ids.end();
  // The draft must be one that the distribution can give.
  return unique && has_token && sum <= kMaxProbabilitySum;
}

// The check that fails, or nullptr.
const char* ReadDraft(const v1::SequenceDraft& message, const BatchBounds& bounds, SequenceDraft& draft) {
  const int count = message.token_ids_size();
  if (count < 1 || count > bounds.block_size) return "token_count";
  if (!CheckTokens("", message.token_ids(), bounds.vocab_size).ok()) return "token_id";
  if (message.anchor() < 0 || message.anchor() >= bounds.vocab_size) return "token_id";
  if (message.length() < 1 || message.length() > static_cast<uint32_t>(kMaxPositions)) return "length";
  if (message.confidence_logits_size() != (bounds.has_confidence ? count : 0)) return "confidence";
  const auto finite = [](float value) { return std::isfinite(value); };
  if (!std::ranges::all_of(message.confidence_logits(), finite)) return "confidence";
  const bool rejection = bounds.acceptance == AcceptanceMode::kRejection;
  if (message.distributions_size() != (rejection ? count : 0)) return "distribution";
  draft.distributions.resize(message.distributions_size());
  for (int i = 0; i < message.distributions_size(); ++i) {
    if (!ReadDistribution(message.distributions(i), bounds, message.token_ids(i), draft.distributions[i]))
      return "distribution";
  }
  draft.id = message.id();
  draft.epoch = message.epoch();
  draft.length = static_cast<int32_t>(message.length());
  draft.anchor = message.anchor();
  draft.round = message.round();
  draft.tokens.assign(message.token_ids().begin(), message.token_ids().end());
  draft.confidence_logits.assign(message.confidence_logits().begin(), message.confidence_logits().end());
  return nullptr;
}

void FillDraft(const SequenceDraft& draft, v1::SequenceDraft& out) {
  out.set_id(draft.id);
  out.set_epoch(draft.epoch);
  out.set_length(static_cast<uint32_t>(draft.length));
  out.set_anchor(draft.anchor);
  out.set_round(draft.round);
  out.mutable_token_ids()->Add(draft.tokens.begin(), draft.tokens.end());
  out.mutable_confidence_logits()->Add(draft.confidence_logits.begin(), draft.confidence_logits.end());
  for (const std::vector<TokenProbability>& distribution : draft.distributions) {
    v1::DraftDistribution& entry = *out.add_distributions();
    for (const TokenProbability& pair : distribution) {
      entry.add_token_ids(pair.token);
      entry.add_probabilities(pair.probability);
    }
  }
}

}  // namespace

void FillRing(const RingAddress& ring, v1::RingOffer& out) {
  out.set_name(ring.name);
  out.set_slots(static_cast<uint64_t>(ring.slots));
  out.set_row_bytes(static_cast<uint64_t>(ring.row_bytes));
}

absl::StatusOr<RingAddress> ReadRing(const v1::RingOffer& message) {
  RETURN_IF_ERROR(CheckText("ring.name", message.name(), kMaxNameBytes));
  RETURN_IF_ERROR(CheckCounter("ring.slots", message.slots()));
  RETURN_IF_ERROR(CheckCounter("ring.row_bytes", message.row_bytes()));
  return RingAddress{message.name(), static_cast<int64_t>(message.slots()),
                     static_cast<int64_t>(message.row_bytes())};
}

void FillSocket(const rpc::SocketAddress& socket, v1::SocketOffer& out) {
  out.set_name(socket.name);
  out.set_nonce(socket.nonce);
}

absl::StatusOr<rpc::SocketAddress> ReadSocket(const v1::SocketOffer& message) {
  RETURN_IF_ERROR(CheckText("socket.name", message.name(), kMaxNameBytes));
  RETURN_IF_ERROR(CheckRange("socket.nonce's bytes", static_cast<int64_t>(message.nonce().size()),
                             rpc::kSocketNonceBytes, rpc::kSocketNonceBytes));
  return rpc::SocketAddress{message.name(), message.nonce()};
}

void FillFeed(const Feed& feed, v1::Feed& out) {
  out.set_number(feed.number);
  for (const SequenceFeed& entry : feed.sequences) {
    v1::SequenceFeed& sequence = *out.add_sequences();
    sequence.set_id(entry.id);
    sequence.set_epoch(entry.epoch);
    sequence.set_from(static_cast<uint32_t>(entry.from));
    sequence.set_num_rows(static_cast<uint32_t>(entry.num_rows));
    sequence.set_first_row_number(static_cast<uint64_t>(entry.first_row_number));
    sequence.mutable_token_ids()->Add(entry.tokens.begin(), entry.tokens.end());
    if (entry.sampling) FillSampling(*entry.sampling, *sequence.mutable_sampling());
    sequence.set_draft(entry.draft);
    sequence.set_round(entry.round);
  }
  for (const SequenceName& name : feed.forgotten) {
    v1::SequenceName& entry = *out.add_forgotten();
    entry.set_id(name.id);
    entry.set_epoch(name.epoch);
  }
  out.set_rows(feed.rows.data(), feed.rows.size());
}

absl::StatusOr<Feed> ReadFeed(const v1::Feed& message, const FeedBounds& bounds) {
  RETURN_IF_ERROR(CheckRange("feed.sequences' count", message.sequences_size(), 0, kMaxFeedEntries));
  RETURN_IF_ERROR(CheckRange("feed.forgotten's count", message.forgotten_size(), 0, kMaxFeedEntries));
  Feed feed;
  feed.number = message.number();
  int64_t num_rows = 0;  // no overflow: 2^16 entries of 2^24 rows
  for (int i = 0; i < message.sequences_size(); ++i) {
    absl::StatusOr<SequenceFeed> entry = ReadSequence(message.sequences(i), bounds);
    if (!entry.ok())
      return InvalidArgument("feed.sequences[{}].{}", i, std::string(entry.status().message()));
    num_rows += entry->num_rows;
    feed.sequences.push_back(*std::move(entry));
  }
  const int64_t row_bytes = bounds.inline_rows ? bounds.row_bytes : 0;
  if (static_cast<int64_t>(message.rows().size()) != num_rows * row_bytes) {
    return InvalidArgument("feed.rows must have {} bytes ({} rows of {}), got {}", num_rows * row_bytes,
                           num_rows, row_bytes, message.rows().size());
  }
  const auto rows = std::as_bytes(std::span(message.rows()));
  feed.rows.assign(rows.begin(), rows.end());
  for (const v1::SequenceName& name : message.forgotten())
    feed.forgotten.push_back({name.id(), name.epoch()});
  return feed;
}

const std::vector<std::string>& BatchEntryChecks() {
  static const std::vector<std::string> checks{"token_count", "token_id",     "length",
                                               "confidence",  "distribution", "have"};
  return checks;
}

void FillBatch(const DraftBatch& batch, v1::DraftBatch& out) {
  out.set_number(batch.number);
  out.set_feed_number(batch.feed_number);
  for (const SequenceDraft& draft : batch.drafts) FillDraft(draft, *out.add_drafts());
  for (const OutOfSync& entry : batch.out_of_sync) {
    v1::OutOfSync& sequence = *out.add_out_of_sync();
    sequence.set_id(entry.id);
    sequence.set_epoch(entry.epoch);
    sequence.set_have(static_cast<uint32_t>(entry.have));
  }
  out.set_rows_granted(static_cast<uint64_t>(batch.rows_granted));
  out.set_compute_seconds(batch.compute_seconds);
}

absl::StatusOr<CheckedBatch> ReadBatch(const v1::DraftBatch& message, const BatchBounds& bounds) {
  RETURN_IF_ERROR(CheckRange("drafts.drafts' count", message.drafts_size(), 0, kMaxBatchEntries));
  RETURN_IF_ERROR(CheckRange("drafts.out_of_sync's count", message.out_of_sync_size(), 0, kMaxBatchEntries));
  RETURN_IF_ERROR(CheckCounter("drafts.rows_granted", message.rows_granted()));
  if (!std::isfinite(message.compute_seconds()) || message.compute_seconds() < 0) {
    return InvalidArgument("drafts.compute_seconds must be finite and not negative, got {}",
                           message.compute_seconds());
  }
  CheckedBatch checked;
  DraftBatch& batch = checked.batch;
  batch.number = message.number();
  batch.feed_number = message.feed_number();
  batch.rows_granted = static_cast<int64_t>(message.rows_granted());
  batch.compute_seconds = message.compute_seconds();
  for (const v1::SequenceDraft& entry : message.drafts()) {
    SequenceDraft draft;
    if (const char* check = ReadDraft(entry, bounds, draft); check != nullptr) {
      checked.dropped.push_back(check);
    } else {
      batch.drafts.push_back(std::move(draft));
    }
  }
  for (const v1::OutOfSync& entry : message.out_of_sync()) {
    if (entry.have() > static_cast<uint32_t>(kMaxPositions)) {
      checked.dropped.push_back("have");
    } else {
      batch.out_of_sync.push_back({entry.id(), entry.epoch(), static_cast<int32_t>(entry.have())});
    }
  }
  return checked;
}

absl::Status BatchOrder::Check(const DraftBatch& batch, uint64_t last_feed_sent) {
  if (batch.number != number_ + 1)
    return InvalidArgument("drafts.number must be {}, got {}", number_ + 1, batch.number);
  if (batch.feed_number < feed_number_ || batch.feed_number > last_feed_sent) {
    return InvalidArgument("drafts.feed_number must be in {}..{}, got {}", feed_number_, last_feed_sent,
                           batch.feed_number);
  }
  if (batch.rows_granted < rows_granted_)
    return InvalidArgument("drafts.rows_granted fell from {} to {}", rows_granted_, batch.rows_granted);
  number_ = batch.number;
  feed_number_ = batch.feed_number;
  rows_granted_ = batch.rows_granted;
  return absl::OkStatus();
}

}  // namespace tandem::speculation
