// A drafter for tests: keeps what it is fed and checks it against FakeModel, drafts from texts it is told,
// as well or badly as it is told to.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/kernels/half.h"
#include "verifier/engine/engine.h"
#include "verifier/engine/fake_model.h"

namespace tandem::verifier::testing {

class FakeDrafter final : public DrafterLink {
 public:
  struct Behaviour {
    double right = 0.7;              // chance that a draft is what the text says
    double late = 0;                 // chance that an answer waits for the next delivery
    double silent = 0;               // chance that a request is never answered
    double forgetful = 0;            // chance that a sequence's context is gone
    double garbled = 0;              // chance that an answer names another state
    bool rows = true;                // conditions on rows
    bool laws = false;               // sends what it drew from: each draft for certain
    int64_t rows_at_once = 1 << 20;  // credit beyond what it has taken
    int max_sequences = 1000;
  };

  FakeDrafter(int index, const Behaviour& behaviour, uint64_t seed)
      : behaviour(behaviour), index_(index), name_("fake"), random_(seed) {}

  // Whole texts, prompt and output; a draft continues the one that a context is the beginning of.
  void Tell(std::vector<std::vector<int32_t>> texts) { texts_ = std::move(texts); }

  DrafterStream NewStream(const std::string& projection_hash = "p1") {
    known_.clear();
    requests_.clear();
    rows_.clear();
    first_row_ = rows_taken_ = 0;
    open = true;
    DrafterStream stream;
    stream.link = this;
    stream.hello.name = "fake";
    stream.hello.algorithm = "scripted";
    stream.hello.vocab_size = FakeModel::kVocab;
    stream.hello.block_size = kBlockSize;
    stream.hello.max_sequences = behaviour.max_sequences;
    stream.hello.rows_granted = behaviour.rows_at_once;
    stream.hello.has_confidence = true;
    if (behaviour.rows) {
      auto projection = std::make_shared<speculation::Projection>();
      projection->width = FakeModel::kHidden;
      projection->taps = {-1, 1};
      projection->fc.assign(FakeModel::kHidden * 2 * FakeModel::kHidden, 0.0f);
      for (int i = 0; i < FakeModel::kHidden; ++i) projection->fc[i * 2 * FakeModel::kHidden + i] = 1.0f;
      stream.projection = projection;
      stream.hello.row_width = projection->width;
      stream.hello.taps = projection->taps;
      stream.hello.projection_hash = projection_hash;
    }
    return stream;
  }

  // --- DrafterLink
  void Connect(const speculation::VerifierHello&, Listener&) override { FAIL(); }
  void PutRow(int64_t row_number, std::span<const std::byte> row) override {
    ASSERT_EQ(row_number, first_row_ + static_cast<int64_t>(rows_.size()));
    ASSERT_LT(row_number, rows_taken_ + behaviour.rows_at_once) << "beyond the credit";
    rows_.emplace_back(row.begin(), row.end());
  }
  void SendFeed(speculation::Feed feed) override {
    ASSERT_TRUE(open);
    ++num_feeds;
    for (const speculation::SequenceName& name : feed.forgotten) EXPECT_EQ(known_.erase(name.id), 1u);
    for (const speculation::SequenceFeed& entry : feed.sequences) TakeEntry(entry);
    EXPECT_LE(known_.size(), static_cast<size_t>(behaviour.max_sequences));
  }
  void Close() override {}
  const std::string& name() const override { return name_; }

  // Answers what was asked for; what is late stays for another time.
  void Deliver(Engine& engine, absl::Duration now) {
    if (!open) return;
    speculation::DraftBatch batch;
    std::deque<Request> later;
    for (Request& request : requests_) {
      if (Chance(behaviour.silent)) continue;
      if (Chance(behaviour.late)) {
        later.push_back(std::move(request));
        continue;
      }
      if (Chance(behaviour.forgetful)) {
        known_.erase(request.id);
        known_[request.id].epoch = request.epoch;
        lost_.insert(request.id);
        batch.out_of_sync.push_back({request.id, request.epoch, 0});
        continue;
      }
      batch.drafts.push_back(Answer(request));
    }
    requests_ = std::move(later);
    batch.rows_granted = rows_taken_ + behaviour.rows_at_once;
    if (batch.drafts.empty() && batch.out_of_sync.empty() && rows_taken_ == granted_for_) return;
    granted_for_ = rows_taken_;
    engine.TakeDrafts(index_, std::move(batch), now);
  }

  static constexpr int kBlockSize = 7;
  Behaviour behaviour;
  bool open = false;
  int64_t num_feeds = 0, num_requests = 0, num_restarts = 0;  // restarts: a context fed from 0 again
  size_t num_known() const { return known_.size(); }
  size_t num_waiting() const { return requests_.size(); }  // asked for, not answered

 private:
  struct Context {
    uint32_t epoch = 0;
    uint32_t round = 0;
    std::vector<int32_t> tokens;  // one more than rows
    int32_t num_rows = 0;
    uint64_t seed = 0;
  };
  struct Request {
    uint64_t id;
    uint32_t epoch, round;
    std::vector<int32_t> tokens;
  };

  bool Chance(double p) { return std::uniform_real_distribution(0.0, 1.0)(random_) < p; }

  void TakeEntry(const speculation::SequenceFeed& entry) {
    Context& context = known_[entry.id];
    ASSERT_LE(entry.from, context.num_rows) << "fed beyond what it has";
    if (entry.from == 0) {
      num_restarts += static_cast<int64_t>(lost_.erase(entry.id));
      ASSERT_TRUE(entry.sampling.has_value());
      context = {};
      context.epoch = entry.epoch;
    }
    ASSERT_EQ(entry.epoch, context.epoch);
    ASSERT_EQ(entry.tokens.size(), static_cast<size_t>(entry.num_rows) + 1);
    context.tokens.resize(entry.from);
    context.tokens.insert(context.tokens.end(), entry.tokens.begin(), entry.tokens.end());
    context.num_rows = entry.from + entry.num_rows;
    if (behaviour.rows) {
      ASSERT_EQ(entry.first_row_number, first_row_);
      for (int32_t i = 0; i < entry.num_rows; ++i) {
        ASSERT_FALSE(rows_.empty());
        CheckRow(rows_.front(), std::span(context.tokens).first(entry.from + i + 1));
        rows_.pop_front();
        ++first_row_;
        ++rows_taken_;
      }
    }
    if (!entry.draft) return;
    ++num_requests;
    ASSERT_GT(entry.round, context.round);
    context.round = entry.round;
    requests_.push_back({entry.id, entry.epoch, entry.round, context.tokens});
  }

  static void CheckRow(const std::vector<std::byte>& row, std::span<const int32_t> tokens) {
    ASSERT_EQ(row.size(), FakeModel::kHidden * sizeof(uint16_t));
    const auto want = FakeModel::TapOf(tokens);
    for (int i = 0; i < FakeModel::kHidden; ++i) {
      uint16_t half;
      std::memcpy(&half, row.data() + i * sizeof(half), sizeof(half));
      ASSERT_EQ(kernels::FloatFromBF16(half), want[i]) << "row of position " << tokens.size() - 1;
    }
  }

  speculation::SequenceDraft Answer(const Request& request) {
    speculation::SequenceDraft draft;
    draft.id = request.id;
    draft.epoch = request.epoch;
    draft.round = request.round;
    draft.length = static_cast<int32_t>(request.tokens.size());
    draft.anchor = request.tokens.back();
    const std::vector<int32_t>* text = nullptr;
    for (const auto& candidate : texts_) {
      if (candidate.size() > request.tokens.size() &&
          std::equal(request.tokens.begin(), request.tokens.end(), candidate.begin())) {
        text = &candidate;
      }
    }
    for (int i = 0; i < kBlockSize; ++i) {
      const size_t at = request.tokens.size() + i;
      const bool right = text != nullptr && at < text->size() && Chance(behaviour.right);
      draft.tokens.push_back(right ? (*text)[at] : static_cast<int32_t>(random_() % FakeModel::kVocab));
      draft.confidence_logits.push_back(right ? 2.0f : -2.0f);
      if (behaviour.laws) draft.distributions.push_back({{draft.tokens.back(), 1.0f}});
    }
    if (Chance(behaviour.garbled)) {
      switch (random_() % 4) {
        case 0:
          ++draft.length;
          break;
        case 1:
          draft.anchor ^= 1;
          break;
        case 2:
          --draft.round;
          break;
        default:
          ++draft.epoch;
      }
    }
    return draft;
  }

  const int index_;
  const std::string name_;
  std::mt19937 random_;
  std::vector<std::vector<int32_t>> texts_;
  std::map<uint64_t, Context> known_;
  std::deque<Request> requests_;
  std::set<uint64_t> lost_;  // contexts that are gone
  std::deque<std::vector<std::byte>> rows_;
  int64_t first_row_ = 0;  // number of rows_.front()
  int64_t rows_taken_ = 0;
  int64_t granted_for_ = 0;
};

}  // namespace tandem::verifier::testing
