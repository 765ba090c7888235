#include "verifier/engine/trace_recorder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "common/formats/test_files.h"
#include "verifier/engine/fake_drafter.h"
#include "verifier/engine/mixed_requests.h"
#include "verifier/scheduling/replay.h"
#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

using testing::Bench;
using testing::FakeDrafter;
using testing::FakeGateway;
using ::testing::HasSubstr;
using testing::MixedRequest;
using testing::Options;
using testing::RunToEnd;

TraceHeader Header() {
  return {.policy = *ParseWindowPolicy("fixed:3"),
          .acceptance = speculation::AcceptanceMode::kCoupled,
          .block_size = 7,
          .numerics_id = "test",
          .step_time = LinearStepTime(10e-3, 1e-4).parameters()};
}

StepDecision Step(int number) {
  return {.num_anchors = 1,
          .num_kv_positions = number,
          .max_draft_rows = 8,
          .predicted_seconds = 1e-3,
          .real_seconds = 2e-3,
          .sequences = {{.order = 1, .drafted = true, .survivals = {0.5}, .window = 1, .accepted = 1}}};
}

std::vector<StepDecision> ReadAll(const std::string& path) {
  std::vector<StepDecision> steps;
  auto reader = TraceReader::Open(path);
  EXPECT_TRUE(reader.ok()) << reader.status();
  for (StepDecision step; reader.ok();) {
    const absl::StatusOr<bool> any = (*reader)->Next(step);
    EXPECT_TRUE(any.ok()) << any.status();
    if (!any.ok() || !*any) break;
    steps.push_back(step);
  }
  return steps;
}

void ExpectNoError(const absl::Status& status) { ADD_FAILURE() << status; }

TEST(TraceRecorder, WritesEveryStepInOrder) {
  const formats::TestDirectory directory;
  const std::string path = directory.path() / "trace";
  constexpr int kSteps = 400;  // fewer than wait at most, so that none may be dropped
  {
    auto recorder = TraceRecorder::Start(path, Header(), ExpectNoError);
    ASSERT_TRUE(recorder.ok()) << recorder.status();
    for (int i = 0; i < kSteps; ++i) {
      StepDecision step = Step(i);
      (*recorder)->OnDecision(step);
    }
  }
  const std::vector<StepDecision> steps = ReadAll(path);
  ASSERT_EQ(steps.size(), static_cast<size_t>(kSteps));
  for (int i = 0; i < kSteps; ++i) EXPECT_EQ(steps[i].num_kv_positions, i);
}

// A pipe that nobody reads takes its 64 KiB and then nothing.
TEST(TraceRecorder, AFileThatTakesNothingCostsStepsOfTheTraceAndNoTime) {
  const formats::TestDirectory directory;
  const std::string path = directory.path() / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const int pipe = open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(pipe, 0);
  constexpr int kSteps = 20000;
  auto recorder = TraceRecorder::Start(path, Header(), ExpectNoError);
  ASSERT_TRUE(recorder.ok()) << recorder.status();
  for (int i = 0; i < kSteps; ++i) {
    StepDecision step = Step(i);
    (*recorder)->OnDecision(step);
  }
  const int64_t dropped = (*recorder)->num_dropped();
  EXPECT_GT(dropped, 0);
  // Everything that was not dropped comes once somebody reads.
  std::string text;
  std::thread reader([&] {
    char buffer[4096];
    while (true) {
      const ssize_t n = read(pipe, buffer, sizeof(buffer));
      if (n <= 0) break;
      text.append(buffer, n);
      if (text.back() == '#') break;
    }
  });
  while ((*recorder)->num_written() < kSteps - dropped) std::this_thread::yield();
  EXPECT_EQ((*recorder)->num_dropped(), dropped);
  recorder->reset();
  ASSERT_EQ(write(pipe, "#", 1), 1);
  reader.join();
  close(pipe);
  EXPECT_GE(std::ranges::count(text, '\n'), (kSteps - dropped));
}

TEST(TraceRecorder, WriteErrorsAreToldOnceAndCounted) {
  std::vector<absl::Status> errors;
  {
    auto recorder =
        TraceRecorder::Start("/dev/full", Header(), [&](const absl::Status& s) { errors.push_back(s); });
    ASSERT_TRUE(recorder.ok()) << recorder.status();
    for (int round = 0; round < 3; ++round) {
      const int64_t before = (*recorder)->num_written() + (*recorder)->num_dropped();
      for (int i = 0; i < 128; ++i) {
        StepDecision step = Step(i);
        (*recorder)->OnDecision(step);
      }
      while ((*recorder)->num_written() + (*recorder)->num_dropped() < before + 128)
        std::this_thread::yield();
    }
    EXPECT_GT((*recorder)->num_dropped(), 128);
  }
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_THAT(std::string(errors[0].message()), HasSubstr("/dev/full"));
}

TEST(TraceRecorder, EndsAtItsLimitOfBytes) {
  const formats::TestDirectory directory;
  const std::string path = directory.path() / "trace";
  std::vector<absl::Status> errors;
  int64_t written = 0;
  {
    auto recorder = TraceRecorder::Start(
        path, Header(), [&](const absl::Status& s) { errors.push_back(s); }, 4096);
    ASSERT_TRUE(recorder.ok()) << recorder.status();
    for (int i = 0; i < 128; ++i) {
      StepDecision step = Step(i);
      (*recorder)->OnDecision(step);
    }
    while ((*recorder)->num_written() + (*recorder)->num_dropped() < 128) std::this_thread::yield();
    written = (*recorder)->num_written();
  }
  ASSERT_EQ(errors.size(), 1u);
  EXPECT_EQ(errors[0].code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GT(written, 0);
  EXPECT_EQ(ReadAll(path).size(), static_cast<size_t>(written));
}

TEST(TraceRecorder, AFileThatCannotBeMadeIsAnError) {
  EXPECT_FALSE(TraceRecorder::Start("/nowhere/at/all", Header(), ExpectNoError).ok());
}

// Engine -> file -> replay: the trace says what the engine counted, and the recorded policy replays to it.
TEST(TraceRecorder, WhatTheEngineDecidedReplaysToWhatItCounted) {
  const formats::TestDirectory directory;
  const std::string path = directory.path() / "trace";
  EngineOptions options = Options(0);
  options.speculation.num_drafters = 1;
  options.speculation.policy = *ParseWindowPolicy("fixed:3");
  options.kv_bytes = 4096 * (testing::kBlockBytes +
                             RowStore::BlockBytes(options.speculation.row_type, testing::FakeModel::kHidden));
  Bench setup(options);
  FakeDrafter drafter(0, {.right = 0.5, .silent = 0.05}, 1);
  std::vector<std::vector<int32_t>> texts;
  for (int i = 0; i < 12; ++i) {
    const auto alone = testing::RunAlone(i + 1).back();
    texts.push_back(MixedRequest(i).tokens);
    texts.back().insert(texts.back().end(), alone.output.begin(), alone.output.end());
  }
  drafter.Tell(texts);
  ASSERT_TRUE(setup.engine->OpenDrafter(0, drafter.NewStream()).ok());
  int64_t decoding = 0, windows = 0, prefill = 0;
  {
    TraceHeader header = Header();
    header.policy = options.speculation.policy;
    header.step_time = setup.engine->step_time();
    auto recorder = TraceRecorder::Start(path, header, ExpectNoError);
    ASSERT_TRUE(recorder.ok()) << recorder.status();
    setup.engine->ObserveDecisions(recorder->get());
    FakeGateway gateway(*setup.engine, 1);
    for (int i = 0; i < 12; ++i) gateway.Submit(MixedRequest(i));
    RunToEnd(*setup.engine, {&gateway}, [&] {
      const StepStats& step = setup.engine->last_step();
      decoding += step.anchors;
      prefill += step.prefill_tokens;
      setup.clock.Advance(absl::Milliseconds(30));
      drafter.Deliver(*setup.engine, setup.clock.Now());
    });
    setup.engine->ObserveDecisions(nullptr);
    EXPECT_EQ((*recorder)->num_dropped(), 0);
  }
  const StepStats& last = setup.engine->last_step();
  decoding += last.anchors;
  prefill += last.prefill_tokens;
  const EngineStats stats = setup.engine->stats();
  ASSERT_GT(stats.accepted, 20);

  int64_t anchors = 0, accepted = 0, prompt = 0, late = 0;
  absl::Duration total;
  for (const StepDecision& step : ReadAll(path)) {
    anchors += step.num_anchors;
    prompt += step.num_prefill_tokens;
    total += absl::Seconds(step.real_seconds);
    for (const SequenceDecision& sequence : step.sequences) {
      EXPECT_TRUE(sequence.drafted);
      EXPECT_EQ(sequence.confidences.size(), sequence.survivals.size());
      late += sequence.survivals.empty();
      windows += sequence.window;
      accepted += sequence.accepted;
    }
  }
  EXPECT_EQ(anchors, decoding);
  EXPECT_EQ(prompt, prefill);
  EXPECT_EQ(windows, stats.checked);
  EXPECT_EQ(accepted, stats.accepted);
  EXPECT_GT(late, 0);
  EXPECT_LE(total, setup.clock.Now());
  EXPECT_GT(total, setup.clock.Now() / 2);

  auto trace = TraceReader::Open(path);
  ASSERT_TRUE(trace.ok()) << trace.status();
  const auto replay = Replay(**trace, options.speculation.policy);
  ASSERT_TRUE(replay.ok()) << replay.status();
  EXPECT_EQ(replay->num_anchors, decoding);
  EXPECT_EQ(replay->recorded.tokens, static_cast<double>(decoding + stats.accepted));
  EXPECT_EQ(replay->replayed.tokens, replay->recorded.tokens);
  EXPECT_EQ(replay->replayed.window_sum, static_cast<double>(stats.checked));
}

}  // namespace
}  // namespace tandem::verifier
