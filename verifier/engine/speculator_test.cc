// Speculation over fakes: whatever drafters do, the text is what it is without them, and what they are fed is
// what the model has computed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "verifier/engine/fake_drafter.h"
#include "verifier/engine/mixed_requests.h"

namespace tandem::verifier {
namespace {

using testing::Bench;
using testing::ExpectSame;
using testing::FakeDrafter;
using testing::FakeGateway;
using testing::MixedRequest;
using testing::Options;
using testing::Outcome;
using testing::RunAlone;
using testing::RunToEnd;

constexpr int kRequests = 48;

const std::vector<Outcome>& Alone() {
  static const auto& alone = *new std::vector<Outcome>(RunAlone(kRequests));
  return alone;
}

std::vector<std::vector<int32_t>> Texts() {
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < kRequests; ++i) {
    texts.push_back(MixedRequest(i).tokens);
    texts.back().insert(texts.back().end(), Alone()[i].output.begin(), Alone()[i].output.end());
  }
  return texts;
}

EngineOptions SpeculationOptionsOf(const std::string& policy, int blocks = 4096, int num_drafters = 1) {
  EngineOptions options = Options(0);
  options.speculation.num_drafters = num_drafters;
  options.speculation.policy = *ParseWindowPolicy(policy);
  const int64_t row_bytes = RowStore::BlockBytes(options.speculation.row_type, testing::FakeModel::kHidden);
  options.kv_bytes = blocks * (testing::kBlockBytes + row_bytes);
  return options;
}

// All requests at once with these drafters; `each_step` may do what it likes to them.
EngineStats RunWith(
    Bench& setup, std::vector<FakeDrafter*> drafters, const std::function<void(int)>& each_step = [](int) {},
    absl::Duration tick = absl::Milliseconds(10)) {
  for (size_t i = 0; i < drafters.size(); ++i) {
    drafters[i]->Tell(Texts());
    EXPECT_TRUE(setup.engine->OpenDrafter(static_cast<int>(i), drafters[i]->NewStream()).ok());
  }
  FakeGateway gateway(*setup.engine, 1);
  std::vector<uint64_t> ids;
  for (int i = 0; i < kRequests; ++i) ids.push_back(gateway.Submit(MixedRequest(i)));
  int step = 0;
  RunToEnd(*setup.engine, {&gateway}, [&] {
    setup.clock.Advance(tick);
    each_step(step++);
    for (FakeDrafter* drafter : drafters) drafter->Deliver(*setup.engine, setup.clock.Now());
  });
  for (int i = 0; i < kRequests; ++i) ExpectSame(gateway.outcome(ids[i]), Alone()[i], i);
  const EngineStats stats = setup.engine->stats();
  EXPECT_EQ(stats.running_sequences, 0);
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
  for (FakeDrafter* drafter : drafters) {
    EXPECT_TRUE(!drafter->open || drafter->num_known() == 0) << "sequences it was not told to forget";
  }
  return stats;
}

TEST(SpeculationTest, EveryPolicyGivesTheSameText) {
  for (const char* policy : {"off", "fixed:0", "fixed:1", "fixed:3", "fixed:7", "threshold:0.5", "prefix"}) {
    SCOPED_TRACE(policy);
    Bench setup(SpeculationOptionsOf(policy));
    FakeDrafter drafter(0, {}, 1);
    const EngineStats stats = RunWith(setup, {&drafter});
    const bool drafts = std::string_view(policy) != "off" && std::string_view(policy) != "fixed:0";
    EXPECT_EQ(drafter.num_requests > 0, drafts);
    // With times that stand still `prefix` sees nothing to gain; what it chooses is window_policy_test's.
    if (std::string_view(policy) == "prefix") continue;
    EXPECT_EQ(stats.checked > 0, drafts);
    EXPECT_EQ(stats.accepted > 0, drafts);
    EXPECT_EQ(stats.accepted < stats.checked, drafts && std::string_view(policy).starts_with("fixed"));
  }
}

TEST(SpeculationTest, TokenDraftersNeedNoRows) {
  Bench setup(SpeculationOptionsOf("fixed:4"));
  FakeDrafter drafter(0, {.rows = false}, 2);
  const EngineStats stats = RunWith(setup, {&drafter});
  EXPECT_GT(stats.accepted, 100);
  EXPECT_EQ(stats.speculation.inline_row_bytes, 0);
}

TEST(SpeculationTest, PreemptionAndPrefixHitsKeepDraftersFed) {
  for (const bool prefix_cache : {false, true}) {
    EngineOptions options = SpeculationOptionsOf("fixed:5", 40);
    options.prefix_cache = prefix_cache;
    Bench setup(options);
    FakeDrafter drafter(0, {}, 3);
    const EngineStats stats = RunWith(setup, {&drafter});
    EXPECT_GT(stats.preemptions, 0);
    EXPECT_GT(stats.accepted, 100);
    EXPECT_EQ(stats.cached_prompt_tokens > 0, prefix_cache);
    EXPECT_EQ(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kNoRows)], 0);
  }
}

TEST(SpeculationTest, LateSilentForgetfulAndGarbledAnswersCostOnlyTime) {
  Bench setup(SpeculationOptionsOf("fixed:4"));
  FakeDrafter drafter(0, {.late = 0.3, .silent = 0.02, .forgetful = 0.05, .garbled = 0.05}, 4);
  const EngineStats stats = RunWith(setup, {&drafter});
  EXPECT_GT(stats.accepted, 0);
  EXPECT_GT(stats.speculation.out_of_sync, 0);
  EXPECT_GT(drafter.num_restarts, 0);
  EXPECT_GT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kStale)], 0);
  EXPECT_GT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kTimeout)], 0);
}

TEST(SpeculationTest, ASilentDrafterOpensTheBreakerAndIsProbedAgain) {
  Bench setup(SpeculationOptionsOf("fixed:4"));
  FakeDrafter drafter(0, {}, 5);
  const auto silent_at_first = [&](int step) {
    drafter.behaviour.silent = step < 20 ? 1 : 0;
    if (step != 19) return;
    EXPECT_EQ(setup.engine->stats().drafters[0].breaker, DraftBreaker::State::kOpen);
    EXPECT_EQ(setup.engine->stats().accepted, 0);
  };
  const EngineStats stats = RunWith(setup, {&drafter}, silent_at_first, absl::Milliseconds(50));
  EXPECT_GT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kBreaker)], 0);
  EXPECT_EQ(stats.drafters[0].breaker, DraftBreaker::State::kClosed);
  EXPECT_GT(stats.accepted, 0);
}

TEST(SpeculationTest, ADrafterThatDiesIsFedAnewFromTheBlocks) {
  Bench setup(SpeculationOptionsOf("fixed:4"));
  FakeDrafter drafter(0, {}, 6);
  int64_t deaths = 0;
  const EngineStats stats = RunWith(setup, {&drafter}, [&](int step) {
    if (step % 8 == 7 && drafter.open) {
      setup.engine->CloseDrafter(0);
      drafter.open = false;
      ++deaths;
    } else if (step % 8 == 2 && !drafter.open) {
      EXPECT_TRUE(setup.engine->OpenDrafter(0, drafter.NewStream()).ok());
    }
  });
  EXPECT_GT(deaths, 3);
  EXPECT_GT(stats.accepted, 100);
  EXPECT_GT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kDrafterDown)], 0);
  EXPECT_EQ(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kNoRows)], 0);
}

TEST(SpeculationTest, BlocksOfAnotherProjectionHaveNoRowsUntilComputedAnew) {
  Bench setup(SpeculationOptionsOf("fixed:4"));
  FakeDrafter drafter(0, {}, 7);
  const EngineStats stats = RunWith(setup, {&drafter}, [&](int step) {
    if (step != 12) return;
    setup.engine->CloseDrafter(0);
    EXPECT_TRUE(setup.engine->OpenDrafter(0, drafter.NewStream("p2")).ok());
  });
  EXPECT_GT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kNoRows)], 0);
  EXPECT_GT(stats.accepted, 0);
}

TEST(SpeculationTest, TwoDraftersShareTheSequencesAndOneTakesOverForTheOther) {
  Bench setup(SpeculationOptionsOf("fixed:4", 4096, 2));
  FakeDrafter first(0, {}, 8), second(1, {}, 9);
  int64_t at_death = 0;
  RunWith(setup, {&first, &second}, [&](int step) {
    if (step != 6) return;
    EXPECT_GT(first.num_requests, 0);
    EXPECT_GT(second.num_requests, 0);
    at_death = second.num_requests;
    setup.engine->CloseDrafter(0);
    first.open = false;
  });
  EXPECT_GT(second.num_requests, at_death);
}

TEST(SpeculationTest, SequencesOfADrafterThatHangsMoveToAnother) {
  Bench setup(SpeculationOptionsOf("fixed:4", 4096, 2));
  FakeDrafter first(0, {}, 8), second(1, {}, 9);
  const auto hang = [&](int step) { first.behaviour.silent = step < 4 ? 0 : 1; };
  const EngineStats stats = RunWith(setup, {&first, &second}, hang, absl::Milliseconds(50));
  EXPECT_GT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kTimeout)], 0);
  // Those that wait when the breaker opens, and its probes; not each round of each sequence.
  EXPECT_LT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kBreaker)], kRequests);
}

TEST(SpeculationTest, DraftersOfOneListMustHaveOneProjection) {
  Bench setup(SpeculationOptionsOf("prefix", 4096, 2));
  FakeDrafter first(0, {}, 1), second(1, {}, 2);
  ASSERT_TRUE(setup.engine->OpenDrafter(0, first.NewStream("p1")).ok());
  const absl::Status refused = setup.engine->OpenDrafter(1, second.NewStream("p2"));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("projection_hash"));
}

TEST(SpeculationTest, RowsThatMustBeSharedAreNotTakenInline) {
  EngineOptions options = SpeculationOptionsOf("prefix");
  options.speculation.only_shared_memory = true;
  Bench setup(options);
  FakeDrafter drafter(0, {}, 1), tokens_only(0, {.rows = false}, 2);
  const absl::Status refused = setup.engine->OpenDrafter(0, drafter.NewStream());
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("must be shm"));
  DrafterStream shared = drafter.NewStream();
  shared.transport = speculation::RowTransport::kSharedMemory;
  EXPECT_TRUE(setup.engine->OpenDrafter(0, std::move(shared)).ok());
  setup.engine->CloseDrafter(0);
  EXPECT_TRUE(setup.engine->OpenDrafter(0, tokens_only.NewStream()).ok());
}

TEST(SpeculationTest, CreditAndPlacesAreNeverExceeded) {
  Bench setup(SpeculationOptionsOf("fixed:4"));
  FakeDrafter drafter(0, {.rows_at_once = 24, .max_sequences = 3}, 10);  // which checks both itself
  const EngineStats stats = RunWith(setup, {&drafter});
  EXPECT_GT(stats.accepted, 0);
  EXPECT_GT(stats.speculation.fallbacks[static_cast<size_t>(DraftFallback::kCredit)], 0);
}

TEST(SpeculationTest, AWaitEndsByItselfAtTheTimeout) {
  Bench setup(SpeculationOptionsOf("fixed:4"));
  FakeDrafter drafter(0, {.silent = 1}, 11);
  ASSERT_TRUE(setup.engine->OpenDrafter(0, drafter.NewStream()).ok());
  FakeGateway gateway(*setup.engine, 1);
  Admission request;
  request.tokens = {1, 2, 3};
  request.prompt_length = 3;
  request.max_tokens = 20;
  gateway.Submit(request);
  gateway.SendPlan();
  while (setup.engine->HasWork()) setup.engine->Step();
  EXPECT_EQ(drafter.num_requests, 1);
  const absl::Duration until = setup.engine->NextChange();
  ASSERT_LT(until, absl::InfiniteDuration());
  setup.clock.Advance(until - setup.clock.Now() - absl::Nanoseconds(1));
  EXPECT_FALSE(setup.engine->HasWork());
  setup.clock.Advance(absl::Nanoseconds(1));
  EXPECT_TRUE(setup.engine->HasWork());
  const int64_t before = setup.engine->stats().generated_tokens;
  setup.engine->Step();
  EXPECT_EQ(setup.engine->stats().generated_tokens, before + 1);
}

// Texts differ from run to run with rejection; what every report and every text must keep does not.
TEST(SpeculationTest, RejectionKeepsToTheRequestsThroughPreemptionAndLateDrafts) {
  EngineOptions options = SpeculationOptionsOf("fixed:5", 40);
  options.speculation.acceptance = speculation::AcceptanceMode::kRejection;
  Bench setup(options);
  FakeDrafter drafter(0, {.late = 0.2, .forgetful = 0.02, .laws = true}, 13);
  drafter.Tell(Texts());
  ASSERT_TRUE(setup.engine->OpenDrafter(0, drafter.NewStream()).ok());
  FakeGateway gateway(*setup.engine, 1);
  std::vector<uint64_t> ids;
  for (int i = 0; i < kRequests; ++i) ids.push_back(gateway.Submit(MixedRequest(i)));
  RunToEnd(*setup.engine, {&gateway}, [&] {
    setup.clock.Advance(absl::Milliseconds(50));
    drafter.Deliver(*setup.engine, setup.clock.Now());
  });
  int num_stopped = 0;
  for (int i = 0; i < kRequests; ++i) {
    SCOPED_TRACE(i);
    const Admission request = MixedRequest(i);
    const Outcome& outcome = gateway.outcome(ids[i]);
    const auto is_stop = [&](int32_t token) {
      return std::ranges::find(request.stop_token_ids, token) != request.stop_token_ids.end();
    };
    const auto stop = std::ranges::find_if(outcome.output, is_stop);
    if (outcome.end == SequenceEnd::kStop) {
      EXPECT_EQ(stop, outcome.output.end() - 1) << "goes on behind a stop token";
      EXPECT_GT(static_cast<int32_t>(outcome.output.size()), request.min_tokens);
      ++num_stopped;
    } else {
      EXPECT_EQ(outcome.end, SequenceEnd::kLength) << outcome.error;
      EXPECT_EQ(static_cast<int32_t>(outcome.output.size()), request.max_tokens);
    }
    EXPECT_EQ(outcome.logprobs.size(), request.num_logprobs ? outcome.output.size() : 0);
    for (const float logprob : outcome.logprobs) {
      EXPECT_LE(logprob, 0);
      EXPECT_TRUE(std::isfinite(logprob));
    }
  }
  const EngineStats stats = setup.engine->stats();
  EXPECT_GT(num_stopped, 0);
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_GT(stats.accepted, 50);
  EXPECT_GT(stats.checked, stats.accepted);
  EXPECT_EQ(stats.blocks_free + stats.blocks_cached, stats.blocks_total);
}

// A model whose steps take time: 10 ms alone, a quarter more while somebody drafts.
class TimedModel final : public testing::FakeModel {
 public:
  explicit TimedModel(FakeClock& clock) : FakeModel(512, 256), clock_(clock) {}
  void Forward(const models::Batch& batch, kernels::KvCache& cache, models::Outputs& outputs) override {
    FakeModel::Forward(batch, cache, outputs);
    clock_.Advance(absl::Milliseconds(10));
    if (drafting) clock_.Advance(absl::Microseconds(2500));
    num_beside += drafting;
  }
  bool drafting = false;
  int num_beside = 0;

 private:
  FakeClock& clock_;
};

TEST(SpeculationTest, WhatDraftingBesideStepsCostsIsLearntAndNotTakenForTheStepsOwnTime) {
  FakeClock clock;
  ThreadPool pool(1);
  TimedModel model(clock);
  auto engine = Engine::Create(SpeculationOptionsOf("fixed:4"), model, pool, clock);
  ASSERT_TRUE(engine.ok()) << engine.status();
  const double alone = (*engine)->step_time().table_seconds[0];
  ASSERT_NEAR(alone, 10e-3, 1e-6);
  FakeDrafter drafter(0, {.late = 0.5}, 12);
  drafter.Tell(Texts());
  DrafterStream stream = drafter.NewStream();
  stream.shares_cores = false;
  ASSERT_TRUE((*engine)->OpenDrafter(0, std::move(stream)).ok());
  EXPECT_EQ((*engine)->stats().drafters[0].interference, 1);
  FakeGateway gateway(**engine, 1);
  for (int i = 0; i < kRequests; ++i) gateway.Submit(MixedRequest(i));
  RunToEnd(**engine, {&gateway}, [&] {
    drafter.Deliver(**engine, clock.Now());
    model.drafting = drafter.num_waiting() > 0;
  });
  ASSERT_GT(model.num_beside, 20);
  EXPECT_NEAR((*engine)->stats().drafters[0].interference, 0.2, 0.02);  // 2.5 ms of 12.5 ms of drafting
  EXPECT_NEAR((*engine)->step_time().table_seconds[0], alone, 0.02 * alone);
}

// Each row takes 5 ms, so that with eight sequences a draft costs as much as it brings.
class ComputeBoundModel final : public testing::FakeModel {
 public:
  explicit ComputeBoundModel(FakeClock& clock) : FakeModel(512, 256), clock_(clock) {}
  void Forward(const models::Batch& batch, kernels::KvCache& cache, models::Outputs& outputs) override {
    FakeModel::Forward(batch, cache, outputs);
    clock_.Advance(absl::Milliseconds(2) + absl::Milliseconds(5) * static_cast<int>(batch.tokens.size()));
  }

 private:
  FakeClock& clock_;
};

TEST(SpeculationTest, ALatencyTargetSpeedsItsSequenceUpAndChangesNoText) {
  constexpr int kSequences = 8, kPromised = 3;
  struct Run {
    std::vector<Outcome> outcomes;
    std::vector<absl::Duration> took;
  };
  const auto run = [&](double tpot_target_ms) {
    FakeClock clock;
    ThreadPool pool(1);
    ComputeBoundModel model(clock);
    EngineOptions options = SpeculationOptionsOf("prefix");
    auto engine = Engine::Create(options, model, pool, clock);
    EXPECT_TRUE(engine.ok()) << engine.status();
    FakeDrafter drafter(0, {.right = 0.9}, 12);
    FakeGateway gateway(**engine, 1);
    std::vector<Admission> requests;
    std::vector<uint64_t> ids;
    for (int i = 0; i < kSequences; ++i) {
      Admission request;
      request.tokens = {1, 2, i};
      request.prompt_length = 3;
      request.max_tokens = 200;
      request.sampling.seed = static_cast<uint64_t>(i);
      if (i == kPromised) request.tpot_target_ms = tpot_target_ms;
      requests.push_back(request);
      ids.push_back(gateway.Submit(std::move(request)));
    }
    Run result;
    result.took.assign(kSequences, absl::ZeroDuration());
    std::vector<std::vector<int32_t>> texts;
    for (const Admission& request : requests) {  // what each says alone, for the drafter to know
      ThreadPool alone_pool(1);
      testing::FakeModel alone_model(512, 256);
      FakeClock alone_clock;
      auto alone = Engine::Create(Options(0), alone_model, alone_pool, alone_clock);
      FakeGateway alone_gateway(**alone, 1);
      Admission copy = request;
      copy.tpot_target_ms = 0;
      const uint64_t id = alone_gateway.Submit(std::move(copy));
      RunToEnd(**alone, {&alone_gateway});
      texts.push_back(request.tokens);
      const std::vector<int32_t>& output = alone_gateway.outcome(id).output;
      texts.back().insert(texts.back().end(), output.begin(), output.end());
    }
    drafter.Tell(texts);
    EXPECT_TRUE((*engine)->OpenDrafter(0, drafter.NewStream()).ok());
    RunToEnd(**engine, {&gateway}, [&] {
      clock.Advance(absl::Milliseconds(1));
      drafter.Deliver(**engine, clock.Now());
      for (int i = 0; i < kSequences; ++i) {
        if (gateway.IsRunning(ids[i])) result.took[i] = clock.Now();
      }
    });
    for (int i = 0; i < kSequences; ++i) {
      result.outcomes.push_back(gateway.outcome(ids[i]));
      const std::vector<int32_t>& output = result.outcomes.back().output;
      EXPECT_TRUE(std::equal(output.begin(), output.end(), texts[i].begin() + 3, texts[i].end())) << i;
    }
    return result;
  };
  const Run without = run(0), with = run(20);
  EXPECT_LT(with.took[kPromised], 0.7 * without.took[kPromised]);
  for (int i = 0; i < kSequences; ++i) {
    if (i == kPromised) continue;
    EXPECT_LT(with.outcomes[i].checked, with.outcomes[kPromised].checked / 3) << i;
    EXPECT_LT(with.took[i], 1.5 * without.took[i]) << i;
  }
  EXPECT_GT(with.outcomes[kPromised].accepted, 3 * without.outcomes[kPromised].accepted);
}

// One drafter that keeps no rows, one sequence whose drafts are put in its hands.
class SpeculatorTest : public ::testing::Test {
 protected:
  void Start(const std::string& policy, bool shares_cores = true) {
    SpeculationOptions options;
    options.num_drafters = 1;
    options.policy = *ParseWindowPolicy(policy);
    speculator_.emplace(options, model_, FakeDrafter::kBlockSize, rows_, pool_, clock_);
    DrafterStream stream = drafter_.NewStream();
    stream.shares_cores = shares_cores;
    ASSERT_TRUE(speculator_->Open(0, std::move(stream)).ok());
  }
  std::span<const double> Expected() const {
    return speculator_->drafters()[0]->calibration->ExpectedSurvivals(TemperatureBucket(1));
  }
  // A round with these confidence logits; the window that it was given.
  int Round(std::vector<float> logits) {
    PendingDrafts& drafts = sequence_->drafts;
    drafts.tokens.assign(logits.size(), 1);
    drafts.confidence_logits = std::move(logits);
    sequence_->progress.drafter = 0;
    StepLoad load = {.num_anchors = 1, .max_draft_rows = 64};
    Sequence* const sequence = &*sequence_;
    speculator_->PlanWindows(load, {&sequence, 1});
    const int window = drafts.window;
    speculator_->Observe(*sequence_, window, window);
    drafts.Clear();
    return window;
  }

  static Admission Request() {
    Admission request;
    request.tokens = {1, 2, 3};
    request.prompt_length = 3;
    request.max_tokens = 1000;
    return request;
  }

  FakeClock clock_;
  ThreadPool pool_{1};
  testing::FakeModel model_{512, 256};
  HiddenRows rows_{*RowStore::Create(speculation::RowType::kBF16, testing::FakeModel::kHidden, 8), clock_};
  FakeDrafter drafter_{0, {.rows = false}, 1};
  std::optional<Speculator> speculator_;
  std::optional<Sequence> sequence_{std::in_place, 1, 1, Request()};
};

// Half of the rounds promise much and are checked, half promise nothing and are not: what is expected of the
// next one is the mean of both, not the mean of those that were worth checking.
TEST_F(SpeculatorTest, RoundsOfWhichNothingWasCheckedCountInWhatIsExpected) {
  Start("threshold:0.5");
  for (int i = 0; i < 400; ++i) {
    const bool sure = i % 2 == 0;
    ASSERT_EQ(Round(std::vector<float>(4, sure ? 6.0f : -6.0f)), sure ? 4 : 0);
  }
  EXPECT_NEAR(Expected()[0], 0.5, 0.02);
  EXPECT_NEAR(Expected()[3], 0.5, 0.03);
  const SpeculationStats& stats = speculator_->stats();
  EXPECT_EQ(stats.checked_in[9], 800);  // 6 is 0.998; four of them 0.99
  EXPECT_EQ(stats.accepted_in[9], 800);
  EXPECT_NEAR(stats.expected_in[9], 800, 8);
  EXPECT_EQ(std::accumulate(stats.checked_in.begin(), stats.checked_in.end(), int64_t{0}), 800);
  EXPECT_EQ(speculator_->stats().rounds, 200);
  EXPECT_EQ(speculator_->stats().checked_at[0], 200);
}

TEST_F(SpeculatorTest, ASequenceWithoutDraftsTeachesNothing) {
  Start("fixed:4");
  sequence_->progress.drafter = 0;
  const std::vector<double> before(Expected().begin(), Expected().end());
  speculator_->Observe(*sequence_, 0, 0);
  EXPECT_EQ(std::vector<double>(Expected().begin(), Expected().end()), before);
}

TEST_F(SpeculatorTest, AHeadThatIsNotTrustedIsSaidInTheFallbacks) {
  Start("fixed:2");
  const auto uncalibrated = [&] {
    return speculator_->stats().fallbacks[static_cast<size_t>(DraftFallback::kUncalibrated)];
  };
  for (int i = 0; i < 1000; ++i) {  // random confidence says nothing of what is accepted
    PendingDrafts& drafts = sequence_->drafts;
    drafts.tokens.assign(2, 1);
    drafts.confidence_logits.assign(2, i * 7919 % 13 < 6 ? 8.0f : -8.0f);
    sequence_->progress.drafter = 0;
    StepLoad load = {.num_anchors = 1, .max_draft_rows = 64};
    Sequence* const sequence = &*sequence_;
    speculator_->PlanWindows(load, {&sequence, 1});
    speculator_->Observe(*sequence_, drafts.window, i * 104729 % 7 < 3 ? drafts.window : 0);
    drafts.Clear();
    EXPECT_TRUE(i > 0 || uncalibrated() == 0);
  }
  EXPECT_GT(uncalibrated(), 0);
}

}  // namespace
}  // namespace tandem::verifier
