#include "verifier/scheduling/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <random>

#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

WindowPolicy Policy(std::string_view text) { return *ParseWindowPolicy(text); }

TraceHeader Header(const StepTimeModel& model, std::string_view policy) {
  return {.policy = Policy(policy), .block_size = 7, .numerics_id = "test", .step_time = model.parameters()};
}

// One step of two sequences: windows 2 and 1, of which 2 and 0 stood.
StepDecision HandMadeStep() {
  return {.num_anchors = 3,
          .max_draft_rows = 100,
          .draft_seconds = 1e-3,
          .predicted_seconds = 16e-3,
          .real_seconds = 34e-3,
          .sequences = {{.order = 1,
                         .drafted = true,
                         .survivals = {0.8, 0.5, 0.4, 0.1},
                         .confidences = {0.8, 0.6, 0.8, 0.25},
                         .window = 2,
                         .accepted = 2},
                        {.order = 2, .drafted = true, .survivals = {0.5, 0.2}, .window = 1, .accepted = 0}}};
}

ReplayResult ReplayOne(std::string_view policy, const StepDecision& step = HandMadeStep()) {
  const StepTimeModel model = LinearStepTime(10e-3, 1e-3);  // T(B) = 10 + B ms
  Replayer replayer(Header(model, "prefix"), Policy(policy));
  replayer.Add(step);
  return replayer.result();
}

TEST(Replay, CountsRealOutcomesWithinTheWindowAndSurvivalsBeyond) {
  struct Row {
    const char* policy;
    double window_sum, tokens, seconds;
  };
  // Real time is 34 ms where 16 + 1 were predicted: twice.
  const Row rows[] = {
      {"off", 0, 3, 2 * 13e-3},
      {"fixed:0", 0, 3, 2 * 14e-3},
      {"fixed:1", 2, 3 + 1, 2 * 16e-3},
      {"fixed:2", 4, 3 + 2 + 0, 2 * 18e-3},  // the second was rejected at its first draft
      {"fixed:3", 5, 3 + 2 + 0.4 / 0.5, 2 * 19e-3},
      {"fixed:7", 6, 3 + 2 + 0.4 / 0.5 + 0.1 / 0.5, 2 * 20e-3},
      {"threshold:0.7", 3, 3 + 1, 2 * 17e-3},
  };
  for (const Row& row : rows) {
    const ReplayResult result = ReplayOne(row.policy);
    EXPECT_EQ(result.num_steps, 1);
    EXPECT_EQ(result.num_anchors, 3);
    EXPECT_NEAR(result.replayed.window_sum, row.window_sum, 1e-12) << row.policy;
    EXPECT_NEAR(result.replayed.tokens, row.tokens, 1e-12) << row.policy;
    EXPECT_NEAR(result.replayed.seconds, row.seconds, 1e-12) << row.policy;
    EXPECT_NEAR(result.replayed.tokens_per_second(), row.tokens / row.seconds, 1e-6) << row.policy;
    EXPECT_NEAR(result.mean_window(), row.window_sum / 3, 1e-12) << row.policy;
    EXPECT_NEAR(result.mean_accepted_length(), row.tokens / 3, 1e-12) << row.policy;
    EXPECT_NEAR(result.recorded.tokens, 5, 1e-12);
    EXPECT_NEAR(result.recorded.seconds, 34e-3, 1e-12);
    EXPECT_NEAR(result.recorded.window_sum, 3, 1e-12);
  }
}

TEST(Replay, StepsWithoutDecodingAndEmptyTracesCountNothing) {
  const ReplayResult result = ReplayOne("prefix", {.num_prefill_tokens = 100, .real_seconds = 0.1});
  EXPECT_EQ(result.num_steps, 0);
  EXPECT_EQ(result.replayed.seconds, 0);
  EXPECT_EQ(result.replayed.tokens_per_second(), 0);
  EXPECT_EQ(result.mean_window(), 0);
  EXPECT_EQ(result.mean_accepted_length(), 0);
}

// A made-up course of steps on a machine that is `slower` than the model of the header says.
std::vector<StepDecision> Course(const StepTimeModel& model, std::string_view policy, double slower) {
  std::mt19937_64 rng(5);
  std::uniform_real_distribution<double> unit(0, 1);
  StepTimeModel learning = model;
  std::vector<StepDecision> steps;
  for (int i = 0; i < 400; ++i) {
    StepDecision step = {.num_anchors = 4 + static_cast<int>(rng() % 8),
                         .max_draft_rows = 64,
                         .draft_seconds = 1e-3,
                         .utilization = unit(rng) * 0.9};
    step.sequences.resize(4);
    std::vector<DraftedSequence> sequences;
    for (size_t s = 0; s < 4; ++s) {
      step.sequences[s].order = s;
      step.sequences[s].survivals = RandomSurvivals(rng, 7);
      sequences.push_back({.order = s, .survivals = step.sequences[s].survivals});
    }
    const StepLoad load = {.step_time = &learning,
                           .num_anchors = step.num_anchors,
                           .max_draft_rows = step.max_draft_rows,
                           .draft_seconds = step.draft_seconds,
                           .utilization = step.utilization};
    std::vector<int> windows;
    ChooseWindows(Policy(policy), load, sequences, windows);
    int num_rows = 0;
    for (size_t s = 0; s < 4; ++s) {
      SequenceDecision& sequence = step.sequences[s];
      sequence.window = windows[s];
      num_rows += windows[s];
      const double draw = unit(rng);  // accepted as far as survival exceeds it
      while (sequence.accepted < sequence.window &&
             draw < sequence.survivals[static_cast<size_t>(sequence.accepted)]) {
        ++sequence.accepted;
      }
    }
    step.predicted_seconds = learning.Predict(step.Shape(num_rows));
    step.real_seconds = slower * model.Predict(step.Shape(num_rows)) + step.draft_seconds;
    learning.Observe(step.Shape(num_rows), step.real_seconds - step.draft_seconds);
    steps.push_back(step);
  }
  return steps;
}

TEST(Replay, OfTheRecordedPolicyIsTheRecord) {
  const StepTimeModel model = LinearStepTime(10e-3, 4e-4);
  for (const char* policy : {"off", "fixed:3", "prefix"}) {
    Replayer replayer(Header(model, policy), Policy(policy));
    for (const StepDecision& step : Course(model, policy, 1.5)) replayer.Add(step);
    const ReplayResult& result = replayer.result();
    EXPECT_EQ(result.replayed.window_sum, result.recorded.window_sum) << policy;
    EXPECT_NEAR(result.replayed.tokens, result.recorded.tokens, 1e-9) << policy;
    // Off pays no draft time; the course had some.
    const double unused = std::string(policy) == "off" ? 400 * 1e-3 : 0;
    EXPECT_NEAR(result.replayed.seconds, result.recorded.seconds - unused, 0.02 * result.recorded.seconds)
        << policy;
  }
}

// From a trace of full windows, what each policy would have given; from a trace of one policy, about the
// same.
TEST(Replay, EstimatesAgreeWhicheverPolicyWasRecorded) {
  const StepTimeModel model = LinearStepTime(10e-3, 4e-4);
  const auto estimate = [&](std::string_view recorded, std::string_view policy) {
    Replayer replayer(Header(model, recorded), Policy(policy));
    for (const StepDecision& step : Course(model, recorded, 1.0)) replayer.Add(step);
    return replayer.result().replayed.tokens_per_second();
  };
  for (const char* policy : {"off", "fixed:1", "fixed:4", "prefix"}) {
    const double truth = estimate(policy, policy);
    EXPECT_NEAR(estimate("fixed:7", policy), truth, 0.03 * truth) << policy;
    EXPECT_NEAR(estimate("fixed:2", policy), truth, 0.03 * truth) << policy;
  }
  EXPECT_GE(estimate("fixed:7", "prefix"), 0.99 * estimate("fixed:7", "fixed:7"));
  EXPECT_GE(estimate("fixed:7", "prefix"), 0.99 * estimate("fixed:7", "fixed:2"));
}

TEST(Replay, ReadsAFileAndSaysWhichLineIsBad) {
  std::string path = (std::filesystem::temp_directory_path() / "replay_trace.XXXXXX").string();
  const int fd = mkstemp(path.data());
  ASSERT_GE(fd, 0);
  close(fd);
  const StepTimeModel model = LinearStepTime(10e-3, 4e-4);
  const std::vector<StepDecision> steps = Course(model, "prefix", 1.0);
  auto writer = TraceWriter::Create(path, Header(model, "prefix"));
  ASSERT_TRUE(writer.ok());
  for (const StepDecision& step : steps) ASSERT_TRUE((*writer)->Write(step).ok());
  ASSERT_TRUE((*writer)->Close().ok());

  auto reader = TraceReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const auto result = Replay(**reader, (*reader)->header().policy);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->num_steps, static_cast<int64_t>(steps.size()));
  EXPECT_EQ(result->replayed.window_sum, result->recorded.window_sum);
  EXPECT_GT(result->mean_window(), 0);

  std::ofstream(path, std::ios::app) << "{}\n";
  reader = TraceReader::Open(path);
  const auto bad = Replay(**reader, Policy("off"));
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.status().message()), ::testing::HasSubstr(path + ":402: "));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tandem::verifier
