// One verifier's side of a stream, for tests: keeps texts, makes feeds with rows that belong to them.
#pragma once

#include <cstring>
#include <map>
#include <vector>

#include "common/kernels/half.h"
#include "common/speculation/messages.h"
#include "drafter/engine/fake_draft_model.h"

namespace tandem::drafter::testing {

// Token `position` of text number `text`; texts with equal number / 100 have their first `shared` tokens in
// common.
inline int32_t TokenOf(int text, int32_t position, int32_t shared = 0) {
  const int source = position < shared ? text / 100 * 100 : text;
  return (source * 7919 + position * 104729 + position * position) % FakeDraftModel::kVocab;
}

class FakeVerifier {
 public:
  explicit FakeVerifier(speculation::RowType row_type = speculation::RowType::kF32, int32_t shared = 0)
      : row_type_(row_type), shared_(shared) {}

  // Positions [from, to - 1) with rows and token to - 1 without, of sequence `id`, whose text has that
  // number.
  FakeVerifier& Feed(uint64_t id, int32_t from, int32_t to, uint32_t round = 0, uint32_t epoch = 1) {
    speculation::SequenceFeed entry;
    entry.id = id;
    entry.epoch = epoch;
    entry.from = from;
    entry.num_rows = to - 1 - from;
    entry.first_row_number = rows_sent_;
    for (int32_t p = from; p < to; ++p) entry.tokens.push_back(TokenOf(static_cast<int>(id), p, shared_));
    for (int32_t p = from; p < to - 1; ++p) AddRow(static_cast<int>(id), p);
    if (from == 0) entry.sampling = speculation::DraftSampling{.seed = id};
    entry.draft = round > 0;
    entry.round = round;
    rows_sent_ += entry.num_rows;
    feed_.sequences.push_back(std::move(entry));
    return *this;
  }
  FakeVerifier& Forget(uint64_t id, uint32_t epoch = 1) {
    feed_.forgotten.push_back({id, epoch});
    return *this;
  }
  speculation::Feed Take() {
    feed_.number = ++number_;
    return std::exchange(feed_, {});
  }
  int64_t rows_sent() const { return rows_sent_; }

 private:
  // A function of all tokens up to the position, as a target's hidden state is.
  void AddRow(int text, int32_t position) {
    uint32_t hash = 2166136261u;
    for (int32_t p = 0; p <= position; ++p)
      hash = (hash ^ static_cast<uint32_t>(TokenOf(text, p, shared_))) * 16777619u;
    for (int32_t j = 0; j < FakeDraftModel::kWidth; ++j) {
      const float value = static_cast<float>((hash >> (8 * j)) & 0xff) / 128.0f - 1.0f;  // exact in bf16
      if (row_type_ == speculation::RowType::kF32) {
        Append(&value, sizeof value);
      } else {
        const uint16_t bits = kernels::BF16FromFloat(value);
        Append(&bits, sizeof bits);
      }
    }
  }
  void Append(const void* data, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    feed_.rows.insert(feed_.rows.end(), bytes, bytes + size);
  }

  const speculation::RowType row_type_;
  const int32_t shared_;
  speculation::Feed feed_;
  uint64_t number_ = 0;
  int64_t rows_sent_ = 0;
};

}  // namespace tandem::drafter::testing
