#include "common/speculation/wire/speculate_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace tandem::speculation {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

FeedBounds Bounds() {
  return {.vocab_size = 100, .max_context_rows = 64, .row_bytes = 8, .inline_rows = true};
}

Feed TwoSequences() {
  Feed feed;
  feed.number = 3;
  SequenceFeed start;
  start.id = 1;
  start.epoch = 2;
  start.num_rows = 2;
  start.first_row_number = 40;
  start.tokens = {5, 6, 7};
  start.sampling = DraftSampling{.seed = 9, .temperature = 0.5f, .top_k = 40, .top_p = 0.9f, .min_p = 0.1f};
  start.draft = true;
  start.round = 1;
  SequenceFeed more;
  more.id = 2;
  more.epoch = 1;
  more.from = 10;
  more.num_rows = 1;
  more.first_row_number = 42;
  more.tokens = {8, 9};
  feed.sequences = {start, more};
  feed.forgotten = {{7, 3}};
  for (int i = 0; i < 3 * 8; ++i) feed.rows.push_back(static_cast<std::byte>(i));
  return feed;
}

TEST(SpeculateFeed, ArrivesAsItLeft) {
  v1::Feed message;
  FillFeed(TwoSequences(), message);
  const auto read = ReadFeed(message, Bounds());
  ASSERT_TRUE(read.ok()) << read.status();
  v1::Feed again;
  FillFeed(*read, again);
  EXPECT_EQ(again.SerializeAsString(), message.SerializeAsString());
  EXPECT_EQ(read->rows, TwoSequences().rows);
  EXPECT_EQ(read->sequences.at(0).sampling->seed, 9u);
  EXPECT_EQ(read->forgotten.at(0).epoch, 3u);
}

TEST(SpeculateFeed, WithARingThereAreNoBytes) {
  v1::Feed message;
  FillFeed(TwoSequences(), message);
  FeedBounds bounds = Bounds();
  bounds.inline_rows = false;
  EXPECT_THAT(std::string(ReadFeed(message, bounds).status().message()), HasSubstr("feed.rows must have 0"));
  message.clear_rows();
  EXPECT_TRUE(ReadFeed(message, bounds).ok());
}

TEST(SpeculateFeed, EveryNumberIsChecked) {
  const auto change_first = [](auto change) {
    return [change](v1::Feed& m) { change(*m.mutable_sequences(0)); };
  };
  const auto change_sampling = [](auto change) {
    return [change](v1::Feed& m) { change(*m.mutable_sequences(0)->mutable_sampling()); };
  };
  const std::vector<std::pair<const char*, std::function<void(v1::Feed&)>>> cases{
      {"sequences[0].token_ids[1] must be in 0..99, got 100",
       change_first([](auto& s) { s.set_token_ids(1, 100); })},
      {"sequences[0].token_ids[2] must be in 0..99, got -1",
       change_first([](auto& s) { s.set_token_ids(2, -1); })},
      {"sequences[0].token_ids' count must be num_rows + 1 = 3, got 4",
       change_first([](auto& s) { s.add_token_ids(1); })},
      {"sequences[0].token_ids' count", change_first([](auto& s) { s.clear_token_ids(); })},
      {"sequences[0].from must be in 0..64", change_first([](auto& s) { s.set_from(65); })},
      {"sequences[0].from must be in 0..64", change_first([](auto& s) { s.set_from(UINT32_MAX); })},
      {"sequences[0].from + num_rows", change_first([](auto& s) { s.set_from(63); })},
      {"sequences[0].from + num_rows", change_first([](auto& s) { s.set_num_rows(UINT32_MAX); })},
      {"sequences[0].first_row_number", change_first([](auto& s) { s.set_first_row_number(UINT64_MAX); })},
      {"sequences[0].sampling is missing", change_first([](auto& s) { s.clear_sampling(); })},
      {"sequences[0].round", change_first([](auto& s) { s.set_round(0); })},
      {"sequences[0].sampling.temperature", change_sampling([](auto& s) { s.set_temperature(kNaN); })},
      {"sequences[0].sampling.temperature", change_sampling([](auto& s) { s.set_temperature(-1); })},
      {"sequences[0].sampling.temperature", change_sampling([](auto& s) { s.set_temperature(kInf); })},
      {"sequences[0].sampling.top_k", change_sampling([](auto& s) { s.set_top_k(UINT32_MAX); })},
      {"sequences[0].sampling.top_p", change_sampling([](auto& s) { s.set_top_p(0); })},
      {"sequences[0].sampling.top_p", change_sampling([](auto& s) { s.set_top_p(kNaN); })},
      {"sequences[0].sampling.min_p", change_sampling([](auto& s) { s.set_min_p(1.5f); })},
      {"feed.rows must have 24 bytes (3 rows of 8), got 23",
       [](v1::Feed& m) { m.mutable_rows()->pop_back(); }},
      {"feed.rows must have 24 bytes", [](v1::Feed& m) { m.mutable_rows()->append("x"); }},
      {"feed.sequences' count",
       [](v1::Feed& m) {
         while (m.sequences_size() <= kMaxFeedEntries) m.add_sequences();
       }},
      {"feed.forgotten's count",
       [](v1::Feed& m) {
         while (m.forgotten_size() <= kMaxFeedEntries) m.add_forgotten();
       }},
  };
  for (const auto& [text, change] : cases) {
    v1::Feed message;
    FillFeed(TwoSequences(), message);
    change(message);
    const absl::Status status = ReadFeed(message, Bounds()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
}

TEST(SpeculateRing, ArrivesAsItLeftAndIsChecked) {
  v1::RingOffer message;
  FillRing({"/tandem-1-0123456789abcdef", 4096, 1152}, message);
  const auto ring = ReadRing(message);
  ASSERT_TRUE(ring.ok()) << ring.status();
  EXPECT_EQ(ring->slots, 4096);
  EXPECT_EQ(ring->row_bytes, 1152);
  message.set_slots(UINT64_MAX);
  EXPECT_THAT(std::string(ReadRing(message).status().message()), HasSubstr("ring.slots"));
  FillRing({"\n", 1, 1}, message);
  EXPECT_THAT(std::string(ReadRing(message).status().message()), HasSubstr("ring.name"));
}

BatchBounds RejectionBounds() {
  return {.vocab_size = 100,
          .block_size = 2,
          .has_confidence = true,
          .acceptance = AcceptanceMode::kRejection,
          .top_m = 3};
}

DraftBatch OneDraft() {
  DraftBatch batch;
  batch.number = 1;
  batch.feed_number = 1;
  SequenceDraft draft;
  draft.id = 4;
  draft.epoch = 1;
  draft.length = 12;
  draft.anchor = 7;
  draft.round = 3;
  draft.tokens = {10, 11};
  draft.confidence_logits = {0.5f, -2.0f};
  draft.distributions = {{{10, 0.5f}, {12, 0.25f}, {13, 0.25f}}, {{11, 1.0f}}};
  batch.drafts = {draft};
  batch.out_of_sync = {{5, 1, 3}};
  batch.rows_granted = 4100;
  batch.compute_seconds = 0.125;
  return batch;
}

TEST(SpeculateBatch, ArrivesAsItLeft) {
  v1::DraftBatch message;
  FillBatch(OneDraft(), message);
  const auto read = ReadBatch(message, RejectionBounds());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->dropped.empty());
  v1::DraftBatch again;
  FillBatch(read->batch, again);
  EXPECT_EQ(again.SerializeAsString(), message.SerializeAsString());
}

TEST(SpeculateBatch, ABadEntryIsDroppedAloneAndItsCheckNamed) {
  const std::vector<std::pair<const char*, std::function<void(v1::SequenceDraft&)>>> cases{
      {"token_count", [](auto& d) { d.clear_token_ids(); }},
      {"token_count", [](auto& d) { d.add_token_ids(1); }},
      {"token_id", [](auto& d) { d.set_token_ids(0, 100); }},
      {"token_id", [](auto& d) { d.set_token_ids(1, -1); }},
      {"token_id", [](auto& d) { d.set_anchor(100); }},
      {"length", [](auto& d) { d.set_length(0); }},
      {"length", [](auto& d) { d.set_length(UINT32_MAX); }},
      {"confidence", [](auto& d) { d.set_confidence_logits(0, kNaN); }},
      {"confidence", [](auto& d) { d.set_confidence_logits(1, -kInf); }},
      {"confidence", [](auto& d) { d.clear_confidence_logits(); }},
      {"confidence", [](auto& d) { d.add_confidence_logits(0); }},
      {"distribution", [](auto& d) { d.clear_distributions(); }},
      {"distribution",
       [](auto& d) { d.mutable_distributions(0)->set_probabilities(1, 0.252f); }},  // sum 1.002
      {"distribution", [](auto& d) { d.mutable_distributions(0)->set_probabilities(1, kNaN); }},
      {"distribution", [](auto& d) { d.mutable_distributions(0)->set_probabilities(1, -0.1f); }},
      {"distribution", [](auto& d) { d.mutable_distributions(0)->set_token_ids(1, 13); }},  // twice
      {"distribution", [](auto& d) { d.mutable_distributions(0)->set_token_ids(1, 100); }},
      {"distribution", [](auto& d) { d.mutable_distributions(0)->set_token_ids(0, 14); }},  // draft not in it
      {"distribution", [](auto& d) { d.mutable_distributions(0)->set_probabilities(0, 0); }},
      {"distribution", [](auto& d) { d.mutable_distributions(0)->add_token_ids(1); }},
      {"distribution", [](auto& d) { d.mutable_distributions(1)->clear_token_ids(); }},
      {"distribution",
       [](auto& d) {
         d.mutable_distributions(0)->add_token_ids(1);
         d.mutable_distributions(0)->add_probabilities(0);  // four of top_m 3
       }},
  };
  for (const auto& [check, change] : cases) {
    v1::DraftBatch message;
    FillBatch(OneDraft(), message);
    *message.add_drafts() = message.drafts(0);
    change(*message.mutable_drafts(0));
    const auto read = ReadBatch(message, RejectionBounds());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_THAT(read->dropped, ElementsAre(check));
    EXPECT_THAT(BatchEntryChecks(), Contains(check));
    EXPECT_EQ(read->batch.drafts.size(), 1u) << check;
  }
}

TEST(SpeculateBatch, CoupledDraftsCarryNoDistributions) {
  v1::DraftBatch message;
  FillBatch(OneDraft(), message);
  BatchBounds bounds = RejectionBounds();
  bounds.acceptance = AcceptanceMode::kCoupled;
  EXPECT_THAT(ReadBatch(message, bounds)->dropped, ElementsAre("distribution"));
  message.mutable_drafts(0)->clear_distributions();
  EXPECT_TRUE(ReadBatch(message, bounds)->dropped.empty());
  bounds.has_confidence = false;
  EXPECT_THAT(ReadBatch(message, bounds)->dropped, ElementsAre("confidence"));
}

TEST(SpeculateBatch, AnImpossibleHaveIsDropped) {
  v1::DraftBatch message;
  FillBatch(OneDraft(), message);
  message.mutable_out_of_sync(0)->set_have(UINT32_MAX);
  const auto read = ReadBatch(message, RejectionBounds());
  ASSERT_TRUE(read.ok());
  EXPECT_THAT(read->dropped, ElementsAre("have"));
  EXPECT_TRUE(read->batch.out_of_sync.empty());
}

TEST(SpeculateBatch, WhatIsMalformedAsAWholeEndsTheStream) {
  const std::vector<std::pair<const char*, std::function<void(v1::DraftBatch&)>>> cases{
      {"drafts.rows_granted", [](auto& m) { m.set_rows_granted(UINT64_MAX); }},
      {"drafts.compute_seconds", [](auto& m) { m.set_compute_seconds(kNaN); }},
      {"drafts.compute_seconds", [](auto& m) { m.set_compute_seconds(-1); }},
      {"drafts.drafts' count",
       [](auto& m) {
         while (m.drafts_size() <= kMaxBatchEntries) m.add_drafts();
       }},
      {"drafts.out_of_sync's count",
       [](auto& m) {
         while (m.out_of_sync_size() <= kMaxBatchEntries) m.add_out_of_sync();
       }},
  };
  for (const auto& [field, change] : cases) {
    v1::DraftBatch message;
    FillBatch(OneDraft(), message);
    change(message);
    EXPECT_THAT(std::string(ReadBatch(message, RejectionBounds()).status().message()), HasSubstr(field));
  }
}

TEST(BatchOrder, NumbersRiseByOneAndNothingFalls) {
  BatchOrder order(100);
  const auto check = [&](uint64_t number, uint64_t feed_number, int64_t rows_granted) {
    DraftBatch batch;
    batch.number = number;
    batch.feed_number = feed_number;
    batch.rows_granted = rows_granted;
    return std::string(order.Check(batch, 5).message());
  };
  EXPECT_EQ(check(1, 0, 100), "");
  EXPECT_EQ(check(2, 3, 120), "");
  EXPECT_EQ(check(2, 3, 120), "drafts.number must be 3, got 2");
  EXPECT_EQ(check(4, 3, 120), "drafts.number must be 3, got 4");
  EXPECT_EQ(check(3, 2, 120), "drafts.feed_number must be in 3..5, got 2");
  EXPECT_EQ(check(3, 6, 120), "drafts.feed_number must be in 3..5, got 6");
  EXPECT_EQ(check(3, 5, 119), "drafts.rows_granted fell from 120 to 119");
  EXPECT_EQ(check(3, 5, 120), "");
}

}  // namespace
}  // namespace tandem::speculation
