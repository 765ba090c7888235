#include "drafter/engine/draft_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "drafter/engine/fake_draft_model.h"
#include "drafter/engine/fake_verifier.h"
#include "drafter/models/ngram.h"

namespace tandem::drafter {
namespace {

using speculation::DraftBatch;
using speculation::RowType;
using ::testing::ElementsAre;
using testing::FakeDraftModel;
using testing::FakeVerifier;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using testing::TokenOf;

constexpr StreamId kStream = 1;

int64_t BytesOfBlocks(int64_t blocks) {
  return blocks * kernels::KvLayout::Create(kernels::KvType::kF32, {{1, 8}}).block_bytes;
}

class DraftEngineTest : public ::testing::Test {
 protected:
  void Create(DraftEngineOptions options = {}, int32_t max_context_rows = 64, int32_t max_blocks = 8) {
    model_ = std::make_unique<FakeDraftModel>(max_context_rows, max_blocks);
    auto engine = DraftEngine::Create(options, *model_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  void Open(StreamId stream = kStream, RowType row_type = RowType::kF32) {
    engine_->OpenStream(stream, {.row_type = row_type, .mode = {}, .rows = nullptr});
  }
  void Apply(FakeVerifier& verifier, StreamId stream = kStream) {
    const absl::Status status = engine_->ApplyFeed(stream, verifier.Take());
    ASSERT_TRUE(status.ok()) << status;
  }
  // Steps until nothing is left; by stream everything that came.
  std::map<StreamId, DraftBatch> Run() {
    std::map<StreamId, DraftBatch> all;
    for (int steps = 0; engine_->HasWork(); ++steps) {
      EXPECT_LT(steps, 10000);
      if (steps >= 10000) break;
      for (auto& [stream, batch] : engine_->Step()) {
        DraftBatch& sum = all[stream];
        sum.feed_number = batch.feed_number;
        EXPECT_GE(batch.rows_granted, sum.rows_granted);
        sum.rows_granted = batch.rows_granted;
        for (auto& draft : batch.drafts) sum.drafts.push_back(std::move(draft));
        for (auto& out : batch.out_of_sync) sum.out_of_sync.push_back(out);
      }
    }
    return all;
  }
  DraftBatch RunOne() { return Run()[kStream]; }

  // What a sequence with this text and length is drafted by an engine of its own, fed at once.
  static std::vector<int32_t> Alone(uint64_t id, int32_t length, int32_t shared = 0) {
    FakeDraftModel model(4096, 8);
    auto engine = *DraftEngine::Create({.kv_bytes = BytesOfBlocks(64)}, model);
    engine->OpenStream(9, {.row_type = RowType::kF32, .mode = {}, .rows = nullptr});
    FakeVerifier verifier(RowType::kF32, shared);
    EXPECT_TRUE(engine->ApplyFeed(9, verifier.Feed(id, 0, length, 1).Take()).ok());
    const auto batches = engine->Step();
    return batches.at(0).second.drafts.at(0).tokens;
  }
  void ExpectNothingHeld() {
    const DraftEngineStats stats = engine_->stats();
    EXPECT_EQ(stats.sequences, 0);
    EXPECT_EQ(stats.blocks_free, stats.blocks_total);
  }

  std::unique_ptr<FakeDraftModel> model_;
  std::unique_ptr<DraftEngine> engine_;
};

TEST_F(DraftEngineTest, DraftsWhatIsAskedForAndNamesIt) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 20, 3, 2).Feed(6, 0, 10));
  const DraftBatch batch = RunOne();
  EXPECT_EQ(batch.feed_number, 1u);
  ASSERT_THAT(batch.drafts, SizeIs(1));
  EXPECT_EQ(batch.drafts[0].id, 5u);
  EXPECT_EQ(batch.drafts[0].epoch, 2u);
  EXPECT_EQ(batch.drafts[0].round, 3u);
  EXPECT_EQ(batch.drafts[0].length, 20);
  EXPECT_EQ(batch.drafts[0].anchor, TokenOf(5, 19));
  EXPECT_EQ(batch.drafts[0].tokens, Alone(5, 20));
  EXPECT_THAT(batch.drafts[0].confidence_logits, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(batch.rows_granted, verifier.rows_sent() + engine_->options().row_window);
}

TEST_F(DraftEngineTest, FedInPiecesOrAtOnceIsTheSame) {
  Create({}, 7);  // also the model's own calls are cut
  Open();
  FakeVerifier verifier;
  const int32_t ends[] = {1, 2, 16, 17, 18, 33, 40, 64, 65};
  int32_t from = 0;
  uint32_t round = 0;
  for (const int32_t end : ends) {
    Apply(verifier.Feed(5, from, end, ++round));
    const DraftBatch batch = RunOne();
    ASSERT_THAT(batch.drafts, SizeIs(1)) << end;
    EXPECT_EQ(batch.drafts[0].length, end);
    EXPECT_EQ(batch.drafts[0].tokens, Alone(5, end)) << end;
    from = end - 1;
  }
}

TEST_F(DraftEngineTest, SeveralFeedsInOneStepCountAsOne) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 10, 1));
  Apply(verifier.Feed(5, 9, 21, 2));
  Apply(verifier.Feed(5, 20, 22, 3).Feed(6, 0, 3, 1));
  const DraftBatch batch = RunOne();
  EXPECT_EQ(batch.feed_number, 3u);
  ASSERT_THAT(batch.drafts, SizeIs(2));
  EXPECT_EQ(batch.drafts[0].round, 3u);
  EXPECT_EQ(batch.drafts[0].tokens, Alone(5, 22));
  EXPECT_EQ(batch.drafts[1].tokens, Alone(6, 3));
  EXPECT_EQ(model_->num_appends, 1);
  EXPECT_EQ(model_->num_drafts, 1);
}

TEST_F(DraftEngineTest, ABatchOfManyIsAsAlone) {
  Create({}, 50, 3);
  Open();
  Open(2, RowType::kBF16);
  FakeVerifier verifier, other(RowType::kBF16);
  for (uint64_t id = 0; id < 10; ++id) verifier.Feed(id, 0, static_cast<int32_t>(5 + 7 * id), 1);
  for (uint64_t id = 0; id < 5; ++id) other.Feed(id, 0, static_cast<int32_t>(30 - id), 1);
  Apply(verifier);
  Apply(other, 2);
  auto all = Run();
  ASSERT_THAT(all[kStream].drafts, SizeIs(10));
  for (const auto& draft : all[kStream].drafts)
    EXPECT_EQ(draft.tokens, Alone(draft.id, static_cast<int32_t>(5 + 7 * draft.id))) << draft.id;
  ASSERT_THAT(all[2].drafts, SizeIs(5));
  for (const auto& draft : all[2].drafts)  // rows exact in bf16
    EXPECT_EQ(draft.tokens, Alone(draft.id, static_cast<int32_t>(30 - draft.id))) << draft.id;
}

TEST_F(DraftEngineTest, TruncatesWhenItIsAheadAndGoesOn) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 50, 1));
  RunOne();
  for (const int32_t from : {45, 32, 31, 17, 16, 15, 3, 0}) {
    Apply(verifier.Feed(5, from, from + 3, 2));
    const DraftBatch batch = RunOne();
    ASSERT_THAT(batch.drafts, SizeIs(1)) << from;
    EXPECT_EQ(batch.drafts[0].tokens, Alone(5, from + 3)) << from;
  }
}

TEST_F(DraftEngineTest, TruncatesRowsThatHaveNotBeenComputedYet) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 30));
  Apply(verifier.Feed(5, 10, 12, 2));
  EXPECT_EQ(RunOne().drafts.at(0).tokens, Alone(5, 12));
  EXPECT_EQ(model_->rows_appended, 11);
}

TEST_F(DraftEngineTest, SaysOutOfSyncOnceAndIsFedFromThere) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 11));
  RunOne();
  Apply(verifier.Feed(5, 20, 22, 4));
  Apply(verifier.Feed(5, 21, 23, 5));  // was on its way
  DraftBatch batch = RunOne();
  EXPECT_THAT(batch.drafts, SizeIs(0));
  ASSERT_THAT(batch.out_of_sync, SizeIs(1));
  EXPECT_EQ(batch.out_of_sync[0].id, 5u);
  EXPECT_EQ(batch.out_of_sync[0].have, 10);
  Apply(verifier.Feed(5, 22, 24, 6));
  EXPECT_THAT(RunOne().out_of_sync, SizeIs(0));
  EXPECT_EQ(engine_->stats().out_of_sync, 1);
  Apply(verifier.Feed(5, 10, 25, 7));
  batch = RunOne();
  EXPECT_EQ(batch.drafts.at(0).tokens, Alone(5, 25));
  Apply(verifier.Feed(5, 40, 41, 8));
  EXPECT_EQ(RunOne().out_of_sync.at(0).have, 24);
}

TEST_F(DraftEngineTest, ASequenceItHasNeverHeardOfIsOutOfSyncAtZero) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 7, 9, 1, 3));
  const DraftBatch batch = RunOne();
  ASSERT_THAT(batch.out_of_sync, SizeIs(1));
  EXPECT_EQ(batch.out_of_sync[0].epoch, 3u);
  EXPECT_EQ(batch.out_of_sync[0].have, 0);
}

TEST_F(DraftEngineTest, ATokenThatChangedTakesTheRowBeforeItAlong) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 20));
  RunOne();
  verifier.Feed(5, 19, 22, 1);
  speculation::Feed feed = verifier.Take();
  feed.sequences[0].tokens[0] = (feed.sequences[0].tokens[0] + 1) % FakeDraftModel::kVocab;
  ASSERT_TRUE(engine_->ApplyFeed(kStream, std::move(feed)).ok());
  const DraftBatch batch = RunOne();
  EXPECT_THAT(batch.drafts, SizeIs(0));
  ASSERT_THAT(batch.out_of_sync, SizeIs(1));
  EXPECT_EQ(batch.out_of_sync[0].have, 18);
  Apply(verifier.Feed(5, 18, 22, 2));
  EXPECT_EQ(RunOne().drafts.at(0).tokens, Alone(5, 22));
}

TEST_F(DraftEngineTest, ANewEpochStartsEmptyAndAnOldOneIsStale) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 20, 1, 2));
  RunOne();
  Apply(verifier.Feed(5, 19, 25, 2, 1));
  DraftBatch batch = RunOne();
  EXPECT_THAT(batch.drafts, SizeIs(0));
  EXPECT_THAT(batch.out_of_sync, SizeIs(0));
  EXPECT_EQ(engine_->stats().stale, 1);
  Apply(verifier.Feed(5, 19, 25, 1, 3));  // the new one must begin at 0
  batch = RunOne();
  ASSERT_THAT(batch.out_of_sync, SizeIs(1));
  EXPECT_EQ(batch.out_of_sync[0].epoch, 3u);
  EXPECT_EQ(batch.out_of_sync[0].have, 0);
  Apply(verifier.Feed(5, 0, 30, 2, 3));
  EXPECT_EQ(RunOne().drafts.at(0).tokens, Alone(5, 30));
}

TEST_F(DraftEngineTest, ForgottenSequencesFreeTheirMemory) {
  Create();
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 40).Feed(6, 0, 40, 1, 4));
  RunOne();
  EXPECT_EQ(engine_->stats().sequences, 2);
  Apply(verifier.Forget(5).Forget(6, 3).Forget(77));  // 6 is of a later epoch by now, 77 unknown
  RunOne();
  EXPECT_EQ(engine_->stats().sequences, 1);
  Apply(verifier.Feed(6, 39, 41, 1, 4).Forget(6, 4));  // in one message: forgetting comes last
  EXPECT_THAT(RunOne().drafts, SizeIs(0));
  ExpectNothingHeld();
}

TEST_F(DraftEngineTest, TheEndOfAStreamFreesAllOfIt) {
  Create();
  Open();
  Open(2);
  FakeVerifier verifier, other;
  Apply(verifier.Feed(5, 0, 40, 1));
  Apply(other.Feed(5, 0, 40, 1), 2);
  engine_->CloseStream(kStream);  // with work to do
  auto all = Run();
  EXPECT_THAT(all, SizeIs(1));
  EXPECT_THAT(all[2].drafts, SizeIs(1));
  engine_->CloseStream(2);
  EXPECT_FALSE(engine_->HasWork());
  ExpectNothingHeld();
}

TEST_F(DraftEngineTest, RepeatedFeedsAreNoOpsAndGapsEndTheStream) {
  Create();
  Open();
  FakeVerifier verifier;
  const speculation::Feed first = verifier.Feed(5, 0, 4, 1).Take();
  ASSERT_TRUE(engine_->ApplyFeed(kStream, first).ok());
  ASSERT_TRUE(engine_->ApplyFeed(kStream, first).ok());
  EXPECT_THAT(RunOne().drafts, SizeIs(1));
  EXPECT_EQ(engine_->stats().stale, 1);
  speculation::Feed gap = verifier.Feed(5, 3, 5, 2).Take();
  gap.number = 3;
  EXPECT_EQ(engine_->ApplyFeed(kStream, gap).message(), "feed.number must be 2, got 3");
}

TEST_F(DraftEngineTest, RowsBeyondCreditOrOutOfOrderEndTheStream) {
  Create({.row_window = 30}, 10);
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(5, 0, 31));
  const speculation::Feed beyond = verifier.Feed(6, 0, 2).Take();
  const absl::Status status = engine_->ApplyFeed(kStream, beyond);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "feed 2 brings rows up to 31, granted are 30");
  EXPECT_EQ(engine_->Step().at(0).second.rows_granted, 40);  // ten of them have gone into the model
  EXPECT_TRUE(engine_->ApplyFeed(kStream, beyond).ok());
  speculation::Feed out_of_order = verifier.Feed(5, 30, 32).Take();
  out_of_order.sequences[0].first_row_number += 1;
  EXPECT_EQ(engine_->ApplyFeed(kStream, out_of_order).message(),
            "first_row_number of sequence 5 must be 31, got 32");
}

TEST_F(DraftEngineTest, MoreSequencesOrRowsThanSaidEndTheStream) {
  Create({.kv_bytes = BytesOfBlocks(8), .max_sequences = 2});
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(1, 0, 3).Feed(2, 0, 3));
  EXPECT_THAT(std::string(engine_->ApplyFeed(kStream, verifier.Feed(3, 0, 3).Take()).message()),
              HasSubstr("sequence 3 is one more than the 2"));
  EXPECT_EQ(engine_->max_context_rows(), 7 * 16 - 5);
  FakeVerifier again;
  Open(2);
  EXPECT_THAT(std::string(engine_->ApplyFeed(2, again.Feed(1, 0, 7 * 16 - 3).Take()).message()),
              HasSubstr("sequence 1 must have at most 107 rows"));
  FakeVerifier wrong_bytes;
  Open(3);
  speculation::Feed feed = wrong_bytes.Feed(1, 0, 3).Take();
  feed.rows.pop_back();
  EXPECT_EQ(engine_->ApplyFeed(3, feed).message(), "feed.rows must have 24 bytes, got 23");
}

TEST_F(DraftEngineTest, EqualBeginningsAreStoredOnce) {
  Create({}, 1000);
  Open();
  FakeVerifier verifier(RowType::kF32, 40);  // texts 100.. have 40 tokens in common
  Apply(verifier.Feed(100, 0, 50));
  RunOne();
  const int64_t used = engine_->stats().blocks_total - engine_->stats().blocks_free;
  EXPECT_EQ(used, 4);
  Apply(verifier.Feed(101, 0, 50, 1).Feed(102, 0, 50, 1));
  const DraftBatch batch = RunOne();
  // Two blocks of 16 are common (the third holds tokens of their own); two more each.
  EXPECT_EQ(engine_->stats().blocks_total - engine_->stats().blocks_free, used + 2 * 2);
  EXPECT_EQ(engine_->stats().shared_rows, 2 * 32);
  EXPECT_EQ(batch.drafts.at(0).tokens, Alone(101, 50, 40));
  EXPECT_EQ(batch.drafts.at(1).tokens, Alone(102, 50, 40));
  EXPECT_EQ(batch.rows_granted, verifier.rows_sent() + engine_->options().row_window);

  // Whoever goes back into a shared block gets a copy; the others keep theirs.
  Apply(verifier.Feed(101, 20, 22, 2));
  EXPECT_EQ(RunOne().drafts.at(0).tokens, Alone(101, 22, 40));
  Apply(verifier.Feed(102, 49, 51, 2).Feed(100, 49, 51, 2));
  const DraftBatch others = RunOne();
  EXPECT_EQ(others.drafts.at(0).tokens, Alone(102, 51, 40));
  EXPECT_EQ(others.drafts.at(1).tokens, Alone(100, 51, 40));
  Apply(verifier.Forget(100).Forget(101).Forget(102));
  RunOne();
  ExpectNothingHeld();
}

TEST_F(DraftEngineTest, SequencesThatGrowEquallySideBySideBecomeOne) {
  Create({}, 1000);
  Open();
  FakeVerifier verifier(RowType::kF32, 1000);  // all of it in common
  for (int32_t to = 8; to <= 48; to += 8) {
    Apply(verifier.Feed(100, std::max(to - 9, 0), to, 1).Feed(101, std::max(to - 9, 0), to, 1));
    const DraftBatch batch = RunOne();
    EXPECT_EQ(batch.drafts.at(0).tokens, Alone(100, to, 1000));
  }
  // 47 rows: two full blocks in common, a third of their own.
  EXPECT_EQ(engine_->stats().blocks_total - engine_->stats().blocks_free, 4);
}

TEST_F(DraftEngineTest, StreamsShareNothing) {
  Create({}, 1000);
  Open();
  Open(2);
  FakeVerifier verifier(RowType::kF32, 40), other(RowType::kF32, 40);
  Apply(verifier.Feed(100, 0, 50));
  Apply(other.Feed(101, 0, 50), 2);
  Run();
  EXPECT_EQ(engine_->stats().shared_rows, 0);
  EXPECT_EQ(engine_->stats().blocks_total - engine_->stats().blocks_free, 8);
}

TEST_F(DraftEngineTest, ShortOfMemoryTheLeastRecentlyUsedIsLostAndFedAgain) {
  Create({.kv_bytes = BytesOfBlocks(8)});
  Open();
  FakeVerifier verifier;
  Apply(verifier.Feed(1, 0, 40, 1));  // 3 blocks each
  Apply(verifier.Feed(2, 0, 40, 1));
  EXPECT_THAT(RunOne().drafts, SizeIs(2));
  Apply(verifier.Feed(1, 39, 40, 2));  // 1 is the fresher one
  RunOne();
  Apply(verifier.Feed(3, 0, 40, 1));
  DraftBatch batch = RunOne();
  ASSERT_THAT(batch.drafts, SizeIs(1));
  EXPECT_EQ(batch.drafts[0].tokens, Alone(3, 40));
  EXPECT_THAT(batch.out_of_sync, SizeIs(0));
  EXPECT_EQ(engine_->stats().evictions, 1);
  Apply(verifier.Feed(1, 39, 41, 3).Feed(2, 39, 41, 2));
  batch = RunOne();
  ASSERT_THAT(batch.drafts, SizeIs(1));
  EXPECT_EQ(batch.drafts[0].tokens, Alone(1, 41));
  ASSERT_THAT(batch.out_of_sync, SizeIs(1));
  EXPECT_EQ(batch.out_of_sync[0].id, 2u);
  EXPECT_EQ(batch.out_of_sync[0].have, 0);
  Apply(verifier.Feed(2, 0, 41, 3));
  EXPECT_EQ(RunOne().drafts.at(0).tokens, Alone(2, 41));
}

TEST_F(DraftEngineTest, MoreDueThanMemoryHoldsAreServedOneAfterTheOther) {
  // Three contexts of 3 blocks with 11 tokens room in the last, drafts need none more; a fourth has to wait.
  Create({.kv_bytes = BytesOfBlocks(9)});
  Open();
  FakeVerifier verifier;
  for (uint64_t id = 1; id <= 3; ++id) verifier.Feed(id, 0, 46);
  Apply(verifier);
  RunOne();
  for (uint64_t id = 1; id <= 3; ++id) verifier.Feed(id, 45, 46, 1);  // 45 + 5 positions: a fourth block each
  Apply(verifier);
  const DraftBatch batch = RunOne();
  // The first to be asked finds no idle context to take from and gives way; with its blocks the others run.
  ASSERT_THAT(batch.out_of_sync, SizeIs(1));
  ASSERT_THAT(batch.drafts, SizeIs(2));
  for (const auto& draft : batch.drafts) EXPECT_EQ(draft.tokens, Alone(draft.id, 46));
  Apply(verifier.Feed(batch.out_of_sync[0].id, 0, 46, 2));
  const DraftBatch again = RunOne();
  ASSERT_THAT(again.drafts, SizeIs(1));
  EXPECT_EQ(again.drafts[0].tokens, Alone(again.drafts[0].id, 46));
}

TEST_F(DraftEngineTest, ACacheTooSmallForOneBlockOfDraftsIsRefused) {
  FakeDraftModel model;
  const auto engine = DraftEngine::Create({.kv_bytes = BytesOfBlocks(1)}, model);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(engine.status().message()), HasSubstr("at least 2 are needed"));
}

TEST_F(DraftEngineTest, TwoStreamsGetTurns) {
  Create({}, 1000, 4);
  Open();
  Open(2);
  FakeVerifier many, few;
  for (uint64_t id = 1; id <= 20; ++id) many.Feed(id, 0, 5, 1);
  for (uint64_t id = 1; id <= 2; ++id) few.Feed(id, 0, 5, 1);
  Apply(many);
  Apply(few, 2);
  std::map<StreamId, size_t> drafted;
  for (auto& [stream, batch] : engine_->Step()) drafted[stream] = batch.drafts.size();
  EXPECT_EQ(drafted[1], 2u);
  EXPECT_EQ(drafted[2], 2u);
  EXPECT_THAT(Run()[kStream].drafts, SizeIs(18));
  EXPECT_THAT(model_->batch_sizes, ElementsAre(4, 4, 4, 4, 4, 2));
}

TEST_F(DraftEngineTest, WhoWaitsForADraftDoesNotWaitForALongPrompt) {
  Create({}, 32, 4);
  Open();
  Open(2);
  FakeVerifier prompt, decoding;
  Apply(prompt.Feed(1, 0, 400));
  Apply(decoding.Feed(1, 0, 10, 1), 2);
  bool drafted = false;
  for (auto& [stream, batch] : engine_->Step())
    drafted = drafted || (stream == 2 && batch.drafts.size() == 1);
  EXPECT_TRUE(drafted);
  EXPECT_EQ(engine_->stats().worst_lag, 399 - (32 - 9));
}

TEST_F(DraftEngineTest, StreamsThatDrawDifferentlyAreAskedApart) {
  Create();
  Open();
  engine_->OpenStream(2, {.row_type = RowType::kF32,
                          .mode = {.acceptance = speculation::AcceptanceMode::kRejection, .top_m = 4},
                          .rows = nullptr});
  FakeVerifier verifier, other;
  Apply(verifier.Feed(1, 0, 5, 1));
  Apply(other.Feed(1, 0, 5, 1), 2);
  auto all = Run();
  EXPECT_THAT(all[kStream].drafts.at(0).distributions, SizeIs(0));
  EXPECT_THAT(all[2].drafts.at(0).distributions, SizeIs(5));
  EXPECT_EQ(model_->num_drafts, 2);
}

TEST_F(DraftEngineTest, RowsMayLieElsewhere) {
  class Rows : public RowSource {
   public:
    absl::Status Read(int64_t first, int64_t count, std::span<std::byte> out) override {
      if (first + count > limit) return absl::UnavailableError("the ring has shrunk");
      std::copy_n(bytes.begin() + first * 12, count * 12, out.begin());
      return absl::OkStatus();
    }
    std::vector<std::byte> bytes;
    int64_t limit = 1000;
  };
  Create();
  auto rows = std::make_unique<Rows>();
  Rows& source = *rows;
  engine_->OpenStream(kStream, {.row_type = RowType::kF32, .mode = {}, .rows = std::move(rows)});
  FakeVerifier verifier;
  speculation::Feed feed = verifier.Feed(1, 0, 20, 1).Feed(2, 0, 7, 1).Take();
  source.bytes = std::exchange(feed.rows, {});
  ASSERT_TRUE(engine_->ApplyFeed(kStream, std::move(feed)).ok());
  const DraftBatch batch = RunOne();
  EXPECT_EQ(batch.drafts.at(0).tokens, Alone(1, 20));
  EXPECT_EQ(batch.drafts.at(1).tokens, Alone(2, 7));
  source.limit = 0;
  feed = verifier.Feed(2, 6, 8, 2).Take();
  feed.rows.clear();
  EXPECT_EQ(engine_->ApplyFeed(kStream, std::move(feed)).message(), "the ring has shrunk");
}

TEST_F(DraftEngineTest, AModelWithoutRowsOrMemoryNeedsNeither) {
  const auto model = NewNgramDrafter({.block_size = 3});
  auto engine = *DraftEngine::Create({.kv_bytes = 0, .row_window = 2}, *model);  // no credit is needed either
  engine->OpenStream(kStream, {});
  speculation::Feed feed;
  feed.number = 1;
  speculation::SequenceFeed entry;
  entry.id = 1;
  entry.num_rows = 4;
  entry.tokens = {1, 2, 3, 1, 2};
  entry.draft = true;
  feed.sequences = {entry};
  ASSERT_TRUE(engine->ApplyFeed(kStream, feed).ok());
  EXPECT_THAT(engine->Step().at(0).second.drafts.at(0).tokens, ElementsAre(3, 1, 2));
}

// Everything at once, against the drafts of engines that saw nothing else.
TEST_F(DraftEngineTest, RandomTrafficIsAsAlone) {
  for (const uint32_t seed : {1u, 2u, 3u}) {
    Create({.kv_bytes = BytesOfBlocks(40)}, 23, 3);
    std::mt19937 random(seed);
    const auto pick = [&](int n) { return static_cast<int32_t>(random() % n); };
    std::map<StreamId, FakeVerifier> verifiers;
    std::map<std::pair<StreamId, uint64_t>, int32_t> known;  // what each verifier thinks is kept
    std::map<std::pair<StreamId, uint64_t>, uint32_t> epochs;
    for (StreamId stream : {1, 2, 3}) {
      Open(stream);
      verifiers.emplace(stream, FakeVerifier(RowType::kF32, 35));
    }
    int64_t drafts = 0, out_of_sync = 0;
    for (int turn = 0; turn < 400; ++turn) {
      const StreamId stream = 1 + pick(3);
      const uint64_t id = 100 + pick(8);
      int32_t& kept = known[{stream, id}];
      uint32_t& epoch = epochs[{stream, id}];
      FakeVerifier& verifier = verifiers.at(stream);
      switch (pick(10)) {
        case 0:
          verifier.Forget(id, epoch);
          kept = 0;
          ++epoch;
          break;
        case 1:
          kept = 0;
          ++epoch;
          break;
        case 2:
          kept = pick(kept + 1);
          break;
      }
      const int32_t to = kept + 1 + pick(std::min(30, 120 - kept));
      verifier.Feed(id, kept, to, turn + 1, epoch);
      kept = to - 1;
      Apply(verifier, stream);
      if (pick(3) == 0) continue;  // several feeds a step
      for (auto& [from, batch] : Run()) {
        for (const auto& draft : batch.drafts) {
          ++drafts;
          ASSERT_EQ(draft.tokens, Alone(draft.id, draft.length, 35)) << "turn " << turn;
        }
        for (const auto& out : batch.out_of_sync) {
          ++out_of_sync;
          if (out.epoch == epochs[{from, out.id}]) known[{from, out.id}] = out.have;
        }
      }
    }
    EXPECT_GT(drafts, 150);
    EXPECT_GT(out_of_sync, 3);
    EXPECT_GT(engine_->stats().shared_rows, 0);
    for (StreamId stream : {1, 2, 3}) engine_->CloseStream(stream);
    ExpectNothingHeld();
  }
}

}  // namespace
}  // namespace tandem::drafter
