// The engine over a fake model whose text shows every mistake in positions, blocks and histories.
#include "verifier/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "verifier/engine/fake_gateway.h"
#include "verifier/engine/fake_model.h"
#include "verifier/engine/mixed_requests.h"

namespace tandem::verifier {
namespace {

using testing::Bench;
using testing::ExpectSame;
using testing::FakeGateway;
using testing::FakeModel;
using testing::MixedRequest;
using testing::Options;
using testing::Outcome;
using testing::RunAlone;
using testing::RunToEnd;

// All requests at once; their texts must be those they give alone.
void ExpectSameTogether(Bench& setup, const std::vector<Outcome>& alone) {
  FakeGateway gateway(*setup.engine, 1);
  std::vector<uint64_t> ids;
  for (size_t i = 0; i < alone.size(); ++i) ids.push_back(gateway.Submit(MixedRequest(static_cast<int>(i))));
  RunToEnd(*setup.engine, {&gateway});
  for (size_t i = 0; i < alone.size(); ++i)
    ExpectSame(gateway.outcome(ids[i]), alone[i], static_cast<int>(i));
  const EngineStats stats = setup.engine->stats();
  EXPECT_EQ(stats.running_sequences, 0);
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
}

TEST(EngineTest, MixedSequencesTogetherGiveWhatEachGivesAlone) {
  const auto alone = RunAlone(64);
  EXPECT_THAT(alone, ::testing::Contains(::testing::Field(&Outcome::end, SequenceEnd::kStop)));
  EXPECT_THAT(alone, ::testing::Contains(::testing::Field(&Outcome::end, SequenceEnd::kLength)));
  for (const int threads : {1, 3}) {
    for (const int chunk : {1, 16, 512}) {
      EngineOptions options = Options();
      options.prefill_chunk = chunk;
      Bench setup(options, threads);
      ExpectSameTogether(setup, alone);
      EXPECT_GT(setup.engine->stats().cached_prompt_tokens, 0);
    }
  }
}

TEST(EngineTest, NarrowStepsGiveTheSameText) {
  const auto alone = RunAlone(40);
  for (const auto& [rows, logits_rows] : {std::pair{5, 3}, {20, 7}, {33, 33}}) {
    Bench setup(Options(), 2, rows, logits_rows);
    ExpectSameTogether(setup, alone);
  }
}

TEST(EngineTest, PreemptionInATinyPoolGivesTheSameText) {
  const auto alone = RunAlone(64);
  for (const bool prefix_cache : {false, true}) {
    EngineOptions options = Options(30);
    options.prefix_cache = prefix_cache;
    Bench setup(options);
    ExpectSameTogether(setup, alone);
    EXPECT_GT(setup.engine->stats().preemptions, 0);
    EXPECT_EQ(setup.engine->stats().cached_prompt_tokens > 0, prefix_cache);
  }
}

TEST(EngineTest, DraftsOfAnyQualityGiveTheSameText) {
  const auto alone = RunAlone(48);
  for (const int blocks : {40, 4096}) {
    Bench setup(Options(blocks));
    FakeGateway gateway(*setup.engine, 1);
    std::vector<uint64_t> ids;
    for (size_t i = 0; i < alone.size(); ++i)
      ids.push_back(gateway.Submit(MixedRequest(static_cast<int>(i))));
    std::mt19937 random(1);
    RunToEnd(*setup.engine, {&gateway}, [&] {
      for (size_t i = 0; i < ids.size(); ++i) {
        if (!gateway.IsRunning(ids[i])) continue;
        const Admission& request = gateway.request(ids[i]);
        std::vector<int32_t> drafts;
        const size_t done = request.tokens.size() - request.prompt_length;
        const size_t right = random() % 10;
        for (size_t k = done; k < alone[i].output.size() && drafts.size() < right; ++k) {
          drafts.push_back(alone[i].output[k]);
        }
        for (size_t wrong = random() % 5; wrong > 0; --wrong) {
          drafts.push_back(static_cast<int32_t>(random() % FakeModel::kVocab));
        }
        const int32_t shift = random() % 8 == 0 ? 1 : 0;  // meant for another state
        setup.engine->ProposeDrafts(1, ids[i], request.epoch,
                                    static_cast<int32_t>(request.tokens.size()) + shift,
                                    request.tokens.back(), drafts);
      }
    });
    int64_t accepted = 0;
    for (size_t i = 0; i < alone.size(); ++i) {
      ExpectSame(gateway.outcome(ids[i]), alone[i], static_cast<int>(i));
      accepted += gateway.outcome(ids[i]).accepted;
    }
    const EngineStats stats = setup.engine->stats();
    EXPECT_GT(accepted, 100);
    EXPECT_EQ(accepted, stats.accepted);
    EXPECT_LT(stats.accepted, stats.checked);
    EXPECT_GT(stats.stale_messages, 0);
    EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
    EXPECT_EQ(stats.preemptions > 0, blocks == 40);
  }
}

TEST(EngineTest, SevenRightDraftsConfirmEightTokensInOneStep) {
  Admission request = MixedRequest(0);
  request.tokens = {3, 4, 5};
  request.prompt_length = 3;
  request.max_tokens = 20;
  request.min_tokens = 20;
  Outcome alone;
  {
    Bench setup(Options());
    FakeGateway gateway(*setup.engine, 1);
    const uint64_t id = gateway.Submit(request);
    RunToEnd(*setup.engine, {&gateway});
    alone = gateway.outcome(id);
  }
  Bench setup(Options());
  FakeGateway gateway(*setup.engine, 1);
  const uint64_t id = gateway.Submit(request);
  gateway.SendPlan();
  gateway.Receive(setup.engine->Step().at(0).second);  // prefill and the first token
  ASSERT_EQ(gateway.outcome(id).output.size(), 1u);
  const Admission& now = gateway.request(id);
  setup.engine->ProposeDrafts(1, id, 1, 4, now.tokens.back(), std::span(alone.output).subspan(1, 9));
  gateway.Receive(setup.engine->Step().at(0).second);
  EXPECT_EQ(gateway.outcome(id).output.size(), 9u);
  EXPECT_EQ(setup.engine->last_step().draft_tokens, 7);
  EXPECT_EQ(setup.engine->last_step().anchors, 1);
}

TEST(EngineTest, SeveralAnswersToOnePromptCostOnePrefill) {
  Bench setup(Options());
  FakeGateway gateway(*setup.engine, 1);
  Admission request;
  for (int i = 0; i < 200; ++i) request.tokens.push_back(i % 37);
  request.prompt_length = 200;
  request.max_tokens = 2;
  for (int i = 0; i < 8; ++i) {
    request.sampling.seed = i;
    gateway.Submit(request);
  }
  const int64_t rows_before = setup.model.num_rows;  // the measurement of step times
  RunToEnd(*setup.engine, {&gateway});
  // 192 shared positions once; each then 8 of its own, and the first token as anchor.
  EXPECT_EQ(setup.model.num_rows - rows_before, 192 + 8 * (8 + 1));
  EXPECT_EQ(setup.engine->stats().cached_prompt_tokens, 7 * 192);
}

TEST(EngineTest, PrefixCacheNeverCrossesOwners) {
  Bench setup(Options());
  FakeGateway gateway(*setup.engine, 1);
  Admission request;
  for (int i = 0; i < 100; ++i) request.tokens.push_back(i % 37);
  request.prompt_length = 100;
  request.cache_owner = "a";
  gateway.Submit(request);
  RunToEnd(*setup.engine, {&gateway});
  request.cache_owner = "b";
  const uint64_t other = gateway.Submit(request);
  RunToEnd(*setup.engine, {&gateway});
  EXPECT_EQ(gateway.outcome(other).cached_length, 0);
  request.cache_owner = "a";
  const uint64_t same = gateway.Submit(request);
  RunToEnd(*setup.engine, {&gateway});
  EXPECT_EQ(gateway.outcome(same).cached_length, 96);
}

TEST(EngineTest, ClosingAStreamFreesAllOfItAndLeavesTheOther) {
  Bench setup(Options());
  FakeGateway one(*setup.engine, 1), two(*setup.engine, 2);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 20; ++i) {
    one.Submit(MixedRequest(100 + i));
    ids.push_back(two.Submit(MixedRequest(i)));
  }
  const auto alone = RunAlone(20);
  one.SendPlan();
  two.SendPlan();
  for (auto& [stream, report] : setup.engine->Step()) (stream == 1 ? one : two).Receive(report);
  setup.engine->CloseStream(1);
  RunToEnd(*setup.engine, {&two});
  for (int i = 0; i < 20; ++i) ExpectSame(two.outcome(ids[i]), alone[i], i);
  setup.engine->CloseStream(2);
  const EngineStats stats = setup.engine->stats();
  EXPECT_EQ(stats.running_sequences, 0);
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
  EXPECT_FALSE(setup.engine->HasWork());
}

TEST(EngineTest, NothingLeaksOverTwoThousandSequencesWithRandomCancels) {
  Bench setup(Options(200));
  FakeGateway one(*setup.engine, 1), two(*setup.engine, 2);
  std::mt19937 random(7);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 1000; ++i) {
    ids.push_back(one.Submit(MixedRequest(i)));
    two.Submit(MixedRequest(1000 + i));
  }
  RunToEnd(*setup.engine, {&one, &two}, [&] {
    if (random() % 3 == 0) one.Cancel(ids[random() % ids.size()]);
  });
  int cancelled = 0;
  for (const uint64_t id : ids) cancelled += one.outcome(id).end == SequenceEnd::kCancelled;
  EXPECT_GT(cancelled, 20);
  const EngineStats stats = setup.engine->stats();
  EXPECT_EQ(stats.running_sequences, 0);
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
}

TEST(EngineTest, ASequenceEndsAtItsDeadlineAndNotBefore) {
  Bench setup(Options());
  FakeGateway gateway(*setup.engine, 1);
  Admission request = MixedRequest(0);
  request.max_tokens = 100;
  request.min_tokens = 100;
  request.deadline = setup.clock.WallNow() + absl::Seconds(5);
  const uint64_t id = gateway.Submit(request);
  gateway.SendPlan();
  const auto step = [&] {
    for (auto& [stream, report] : setup.engine->Step()) gateway.Receive(report);
  };
  step();
  setup.clock.Advance(absl::Seconds(5) - absl::Nanoseconds(1));
  step();
  EXPECT_TRUE(gateway.IsRunning(id));
  setup.clock.Advance(absl::Nanoseconds(1));
  step();
  EXPECT_EQ(gateway.outcome(id).end, SequenceEnd::kFailed);
  EXPECT_EQ(gateway.outcome(id).error.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(EngineTest, TwoStreamsShareSequencesAndOneAloneHasAll) {
  EngineOptions options = Options();
  options.max_sequences = 8;
  Bench setup(options);
  FakeGateway greedy(*setup.engine, 1), modest(*setup.engine, 2);
  for (int i = 0; i < 40; ++i) greedy.Submit(MixedRequest(i));
  size_t most = 0, greedy_later = 0, modest_most = 0;
  int steps = 0;
  RunToEnd(*setup.engine, {&greedy, &modest}, [&] {
    if (++steps == 10) {
      most = greedy.running();
      for (int i = 0; i < 40; ++i) modest.Submit(MixedRequest(100 + i));
    }
    if (steps > 80 && steps < 100) {  // every first sequence has ended: at most 60 tokens
      greedy_later = std::max(greedy_later, greedy.running());
      modest_most = std::max(modest_most, modest.running());
    }
  });
  EXPECT_EQ(most, 8u);
  EXPECT_EQ(greedy_later, 4u);
  EXPECT_EQ(modest_most, 4u);
}

// A prompt of its own beginning, so that no block is shared.
Admission LongPrompt(uint64_t id, int length) {
  Admission request;
  request.id = id;
  for (int i = 0; i < length; ++i) {
    request.tokens.push_back(static_cast<int32_t>((i * i + 7 * id) % FakeModel::kVocab));
  }
  request.tokens[0] = static_cast<int32_t>(id);
  request.prompt_length = length;
  request.max_tokens = request.min_tokens = 100;
  return request;
}

Plan PlanOf(std::vector<Admission> admissions, int32_t prefill_token_budget = 0) {
  Plan plan;
  plan.number = 1;
  plan.admissions = std::move(admissions);
  plan.prefill_token_budget = prefill_token_budget;
  return plan;
}

// Positions with KV of each stream's sequences after `steps` steps.
std::map<StreamId, int> ComputedAfter(Engine& engine, int steps) {
  std::map<std::pair<StreamId, uint64_t>, int32_t> computed;
  for (int i = 0; i < steps; ++i) {
    for (const auto& [stream, report] : engine.Step()) {
      for (const SequenceReport& news : report.sequences) computed[{stream, news.id}] = news.computed_length;
    }
  }
  std::map<StreamId, int> by_stream;
  for (const auto& [key, length] : computed) by_stream[key.first] += length;
  return by_stream;
}

TEST(EngineTest, StreamsShareThePrefillOfAStepWhateverTheyHaveWaiting) {
  Bench setup(Options(), 2, /*max_step_tokens=*/32);
  setup.engine->OpenStream(1);
  setup.engine->OpenStream(2);
  std::vector<Admission> many;
  for (uint64_t id = 1; id <= 5; ++id) many.push_back(LongPrompt(id, 300));
  setup.engine->ApplyPlan(1, PlanOf(std::move(many)));
  setup.engine->ApplyPlan(2, PlanOf({LongPrompt(11, 300)}));
  // 32 rows a step, none of them an anchor's yet.
  EXPECT_THAT(ComputedAfter(*setup.engine, 10),
              ::testing::ElementsAre(::testing::Pair(1, 160), ::testing::Pair(2, 160)));
  setup.engine->CloseStream(2);
  EXPECT_THAT(ComputedAfter(*setup.engine, 1), ::testing::Contains(::testing::Key(1)));
  EXPECT_EQ(setup.engine->last_step().prefill_tokens, 32);  // one alone has all
}

TEST(EngineTest, APrefillTokenBudgetBindsItsStreamAlone) {
  Bench setup(Options(), 2, /*max_step_tokens=*/32);
  setup.engine->OpenStream(1);
  setup.engine->OpenStream(2);
  setup.engine->ApplyPlan(1, PlanOf({LongPrompt(1, 300)}, /*prefill_token_budget=*/5));
  setup.engine->ApplyPlan(2, PlanOf({LongPrompt(11, 300)}));
  EXPECT_THAT(ComputedAfter(*setup.engine, 10),
              ::testing::ElementsAre(::testing::Pair(1, 50), ::testing::Pair(2, 270)));
  // A budget holds until the next plan says otherwise.
  setup.engine->CloseStream(2);
  setup.engine->Step();
  EXPECT_EQ(setup.engine->last_step().prefill_tokens, 5);
  setup.engine->ApplyPlan(1, PlanOf({}));
  setup.engine->Step();
  EXPECT_EQ(setup.engine->last_step().prefill_tokens, 32);
}

TEST(EngineTest, AStreamWithoutNewsIsReportedOnceASecond) {
  // The first stream's two anchors take the whole step, so the second one's prompt stands still.
  Bench setup(Options(), 2, /*max_step_tokens=*/2, /*max_logits_rows=*/2);
  setup.engine->OpenStream(1);
  setup.engine->ApplyPlan(1, PlanOf({LongPrompt(1, 2), LongPrompt(2, 2)}));
  while (setup.engine->last_step().anchors < 2) setup.engine->Step();
  setup.engine->OpenStream(2);
  setup.engine->ApplyPlan(2, PlanOf({LongPrompt(11, 20)}));
  const auto step = [&] {
    std::map<StreamId, Report> reports;
    for (auto& [stream, report] : setup.engine->Step()) reports[stream] = std::move(report);
    return reports;
  };
  EXPECT_TRUE(step().contains(2));  // the plan is answered
  for (int second = 0; second < 3; ++second) {
    EXPECT_FALSE(step().contains(2));
    setup.clock.Advance(absl::Seconds(1) - absl::Nanoseconds(1));
    EXPECT_FALSE(step().contains(2));
    setup.clock.Advance(absl::Nanoseconds(1));
    const auto reports = step();
    ASSERT_TRUE(reports.contains(2));
    EXPECT_TRUE(reports.at(2).sequences.empty());
    EXPECT_EQ(reports.at(2).running_sequences, 3);
    EXPECT_GT(reports.at(2).kv_free_blocks, 0);
    EXPECT_TRUE(reports.contains(1));  // has tokens to tell at every step
  }
}

TEST(EngineTest, LowestPriorityThenNewestGivesWay) {
  Bench setup(Options(16));
  FakeGateway gateway(*setup.engine, 1);
  std::vector<uint64_t> ids;
  for (const int priority : {0, 1, 0}) {
    Admission request;
    request.tokens.assign(60, 1);
    request.tokens[0] = static_cast<int32_t>(ids.size());  // no shared blocks
    request.prompt_length = 60;
    request.max_tokens = request.min_tokens = 80;
    request.priority = priority;
    ids.push_back(gateway.Submit(request));
  }
  RunToEnd(*setup.engine, {&gateway});
  EXPECT_EQ(gateway.outcome(ids[1]).preemptions, 0);
  EXPECT_GT(gateway.outcome(ids[2]).preemptions, 0);
}

TEST(EngineTest, RepeatedAndStaleEntriesAreDropped) {
  Bench setup(Options());
  Engine& engine = *setup.engine;
  engine.OpenStream(1);
  Admission request = MixedRequest(0);
  request.id = 7;
  request.epoch = 2;
  request.max_tokens = request.min_tokens = 50;
  Plan plan;
  plan.admissions = {request, request};
  engine.ApplyPlan(1, Plan(plan));
  engine.Step();
  EXPECT_EQ(engine.stats().running_sequences, 1);
  request.epoch = 1;
  plan.admissions = {request};
  plan.cancellations = {{7, 1}};
  engine.ApplyPlan(1, Plan(plan));
  EXPECT_EQ(engine.stats().running_sequences, 1);
  EXPECT_EQ(engine.stats().stale_messages, 2);
  engine.ProposeDrafts(1, 7, 1, 10, 0, std::vector<int32_t>{1});
  engine.ProposeDrafts(1, 99, 1, 10, 0, std::vector<int32_t>{1});
  engine.ProposeDrafts(1, 7, 2, 10, 0, std::vector<int32_t>{FakeModel::kVocab});
  EXPECT_EQ(engine.stats().stale_messages, 5);
  // An ended one does not run again either, until its next epoch.
  plan.admissions = {};
  plan.cancellations = {{7, 2}};
  engine.ApplyPlan(1, Plan(plan));
  EXPECT_EQ(engine.stats().running_sequences, 0);
  request.epoch = 2;
  plan.admissions = {request};
  plan.cancellations = {};
  engine.ApplyPlan(1, Plan(plan));
  EXPECT_EQ(engine.stats().running_sequences, 0);
  request.epoch = 3;
  plan.admissions = {request};
  engine.ApplyPlan(1, Plan(plan));
  EXPECT_EQ(engine.stats().running_sequences, 1);
}

TEST(EngineTest, WhatCanNeverFitFailsNamingTheLimit) {
  Bench setup(Options(10));
  EXPECT_EQ(setup.engine->max_model_len(), 10 * 16 - 7 - 1);
  FakeGateway gateway(*setup.engine, 1);
  Admission request;
  request.tokens.assign(100, 1);
  request.prompt_length = 100;
  request.max_tokens = 53;
  const uint64_t too_long = gateway.Submit(request);
  request.max_tokens = 52;
  const uint64_t fits = gateway.Submit(request);
  request.tokens[50] = FakeModel::kVocab;
  const uint64_t bad_id = gateway.Submit(request);
  RunToEnd(*setup.engine, {&gateway});
  EXPECT_EQ(gateway.outcome(too_long).error.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(gateway.outcome(too_long).error.message()), ::testing::HasSubstr("context of 152"));
  EXPECT_EQ(gateway.outcome(fits).output.size(), 52u);
  EXPECT_THAT(std::string(gateway.outcome(bad_id).error.message()), ::testing::HasSubstr("token_ids[50]"));
}

TEST(EngineTest, NanLogitsFailThatSequenceOnly) {
  Bench setup(Options());
  setup.model.poison_token = 39;
  FakeGateway gateway(*setup.engine, 1);
  Admission request;
  request.tokens = {1, 2, 3};
  request.prompt_length = 3;
  request.max_tokens = 5;
  request.sampling.logit_bias = {{39, -100.0f}};
  const uint64_t good = gateway.Submit(request);
  request.tokens = {1, 39, 3};
  const uint64_t bad = gateway.Submit(request);
  RunToEnd(*setup.engine, {&gateway});
  EXPECT_EQ(gateway.outcome(good).end, SequenceEnd::kLength);
  EXPECT_EQ(gateway.outcome(bad).end, SequenceEnd::kFailed);
  EXPECT_EQ(gateway.outcome(bad).error.code(), absl::StatusCode::kInternal);
}

TEST(EngineTest, ARecordedAnswerThatIsCompleteEndsAtOnce) {
  Bench setup(Options());
  FakeGateway gateway(*setup.engine, 1);
  Admission request;
  request.tokens = {1, 2, 3, 4, 5};
  request.prompt_length = 3;
  request.max_tokens = 2;
  const uint64_t full = gateway.Submit(request);
  request.max_tokens = 9;
  request.stop_token_ids = {5};
  const uint64_t stopped = gateway.Submit(request);
  RunToEnd(*setup.engine, {&gateway});
  EXPECT_EQ(gateway.outcome(full).end, SequenceEnd::kLength);
  EXPECT_EQ(gateway.outcome(stopped).end, SequenceEnd::kStop);
  EXPECT_TRUE(gateway.outcome(full).output.empty());
}

SequenceReport News(uint64_t id, uint32_t epoch, int32_t first_index, std::vector<int32_t> tokens,
                    SequenceEnd end = SequenceEnd::kRunning) {
  SequenceReport report;
  report.id = id;
  report.epoch = epoch;
  report.first_index = first_index;
  report.length = first_index + static_cast<int32_t>(tokens.size());
  report.new_tokens = std::move(tokens);
  report.end = end;
  return report;
}

TEST(MessagesTest, MergedReportsJoinTokensAndReplaceTheRest) {
  Report pending;
  pending.plan_number = 1;
  pending.sequences = {News(1, 1, 3, {8, 9}), News(2, 1, 4, {}, SequenceEnd::kPreempted)};
  Report next;
  next.plan_number = 2;
  next.kv_free_blocks = 11;
  next.sequences = {News(1, 1, 5, {7}, SequenceEnd::kStop), News(2, 2, 4, {6})};
  pending.sequences[0].drafted_marks = std::string("\1\0", 2);
  next.sequences[0].drafted_marks = "\1";
  pending.sequences[0].rounds_by_accepted = {0, 1};
  next.sequences[0].rounds_by_accepted = {1, 1};
  MergeReport(pending, std::move(next));
  EXPECT_EQ(pending.plan_number, 2u);
  EXPECT_EQ(pending.kv_free_blocks, 11);
  ASSERT_EQ(pending.sequences.size(), 3u);
  EXPECT_EQ(pending.sequences[0].first_index, 3);
  EXPECT_THAT(pending.sequences[0].new_tokens, ::testing::ElementsAre(8, 9, 7));
  EXPECT_EQ(pending.sequences[0].drafted_marks, std::string("\1\0\1", 3));
  EXPECT_THAT(pending.sequences[0].rounds_by_accepted, ::testing::ElementsAre(1, 1));
  EXPECT_EQ(pending.sequences[0].end, SequenceEnd::kStop);
  EXPECT_EQ(pending.sequences[1].end, SequenceEnd::kPreempted);
  EXPECT_EQ(pending.sequences[2].epoch, 2u);
}

}  // namespace
}  // namespace tandem::verifier
