#include "common/speculation/merge_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::speculation {
namespace {

using ::testing::ElementsAre;

SequenceFeed Entry(uint64_t id, int32_t from, std::vector<int32_t> tokens, uint32_t round = 0) {
  SequenceFeed entry;
  entry.id = id;
  entry.epoch = 1;
  entry.from = from;
  entry.num_rows = static_cast<int32_t>(tokens.size()) - 1;
  entry.tokens = std::move(tokens);
  entry.draft = round > 0;
  entry.round = round;
  if (from == 0) entry.sampling = DraftSampling{};
  return entry;
}

TEST(MergeFeed, KeepsEntriesInOrderAndOnlyTheLastRequestOfASequence) {
  Feed feed, later;
  feed.sequences = {Entry(1, 0, {5, 6, 7}, 1), Entry(2, 0, {5, 6}, 1)};
  later.sequences = {Entry(1, 2, {7, 8}, 2)};
  MergeFeed(feed, std::move(later));
  ASSERT_EQ(feed.sequences.size(), 3u);
  EXPECT_FALSE(feed.sequences[0].draft);
  EXPECT_TRUE(feed.sequences[1].draft);
  EXPECT_EQ(feed.sequences[2].from, 2);
  EXPECT_EQ(feed.sequences[2].round, 2u);
}

TEST(MergeFeed, RequestsWithoutRowsDoNotPileUp) {
  Feed feed;
  feed.sequences = {Entry(1, 0, {5, 6, 7}, 1)};
  for (uint32_t round = 2; round < 100; ++round) {
    Feed later;
    later.sequences = {Entry(1, 2, {7}, round)};
    MergeFeed(feed, std::move(later));
  }
  ASSERT_EQ(feed.sequences.size(), 1u);
  EXPECT_TRUE(feed.sequences[0].draft);
  EXPECT_EQ(feed.sequences[0].round, 99u);
  EXPECT_THAT(feed.sequences[0].tokens, ElementsAre(5, 6, 7));
}

TEST(MergeFeed, AnEntryThatGoesBackOrChangesTheTokenStays) {
  Feed feed, back, other_token;
  feed.sequences = {Entry(1, 0, {5, 6, 7}, 1)};
  back.sequences = {Entry(1, 1, {6}, 2)};
  MergeFeed(feed, std::move(back));
  EXPECT_EQ(feed.sequences.size(), 2u);
  other_token.sequences = {Entry(1, 1, {9}, 3)};
  MergeFeed(feed, std::move(other_token));
  ASSERT_EQ(feed.sequences.size(), 3u);
  EXPECT_THAT(feed.sequences[2].tokens, ElementsAre(9));
}

TEST(MergeFeed, ForgettingAccumulatesUnlessTheSequenceStartsAgain) {
  Feed feed, later;
  feed.forgotten = {{1, 1}, {2, 1}, {3, 1}};
  later.sequences = {Entry(1, 0, {5}, 1), Entry(2, 0, {5}, 1)};
  later.sequences[1].epoch = 2;
  later.forgotten = {{4, 1}};
  MergeFeed(feed, std::move(later));
  std::vector<uint64_t> ids;
  for (const SequenceName& name : feed.forgotten) ids.push_back(name.id);
  EXPECT_THAT(ids, ElementsAre(2, 3, 4));  // (2, 1) is another epoch than the one that started
}

TEST(MergeBatch, OfASequenceOnlyTheLaterAnswerStays) {
  DraftBatch batch, later;
  batch.drafts.resize(2);
  batch.drafts[0].id = 1;
  batch.drafts[1].id = 2;
  batch.out_of_sync = {{3, 1, 4}};
  batch.feed_number = 7;
  batch.rows_granted = 100;
  batch.compute_seconds = 0.25;
  later.drafts.resize(1);
  later.drafts[0].id = 3;
  later.out_of_sync = {{1, 1, 0}};
  later.feed_number = 9;
  later.rows_granted = 120;
  later.compute_seconds = 0.5;
  MergeBatch(batch, std::move(later));
  ASSERT_EQ(batch.drafts.size(), 2u);
  EXPECT_EQ(batch.drafts[0].id, 2u);
  EXPECT_EQ(batch.drafts[1].id, 3u);
  ASSERT_EQ(batch.out_of_sync.size(), 1u);
  EXPECT_EQ(batch.out_of_sync[0].id, 1u);
  EXPECT_EQ(batch.feed_number, 9u);
  EXPECT_EQ(batch.rows_granted, 120);
  EXPECT_EQ(batch.compute_seconds, 0.75);
}

}  // namespace
}  // namespace tandem::speculation
