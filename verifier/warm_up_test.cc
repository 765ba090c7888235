#include "verifier/warm_up.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "verifier/engine_metrics.h"

namespace tandem::verifier {
namespace {

using ::testing::HasSubstr;

// Answers each admission at once with a given end, or not at all.
class InstantLoop : public StepLoop {
 public:
  explicit InstantLoop(std::optional<SequenceReport> answer) : answer_(std::move(answer)) {}

  StreamId OpenStream(ReportSink sink) override {
    sink_ = std::move(sink);
    return 1;
  }
  void CloseStream(StreamId) override { sink_ = nullptr; }
  void AddSource(StreamId, std::shared_ptr<MessageSource>) override {}
  void OpenDrafter(int, DrafterStream, std::function<void(absl::Status)>) override {}
  void CloseDrafter(int) override {}
  void PostDrafts(int, speculation::DraftBatch) override {}
  void PostDrafterProtocolError(int) override {}
  void PostPlan(StreamId, Plan plan) override {
    plans.push_back(plan);
    if (!answer_) return;
    Report report;
    report.sequences.push_back(*answer_);
    sink_(std::move(report));
  }
  EngineStats stats() const override { return present; }
  absl::Duration stalled_for() const override { return absl::ZeroDuration(); }

  bool open() const { return sink_ != nullptr; }

  std::vector<Plan> plans;
  EngineStats present;

 private:
  std::optional<SequenceReport> answer_;
  ReportSink sink_;
};

SequenceReport Ended(SequenceEnd end, absl::Status error = absl::OkStatus()) {
  SequenceReport report;
  report.id = 1;
  report.end = end;
  report.error = std::move(error);
  return report;
}

TEST(WarmUp, RunsOneSequenceAndLeavesNothingBehind) {
  InstantLoop loop(Ended(SequenceEnd::kLength));
  EXPECT_TRUE(WarmUp(loop, absl::Seconds(10)).ok());
  ASSERT_EQ(loop.plans.size(), 1u);
  EXPECT_EQ(loop.plans[0].admissions.at(0).tokens.size(), 1u);
  EXPECT_FALSE(loop.open());
}

TEST(WarmUp, FailsWithTheStepsOwnError) {
  InstantLoop loop(Ended(SequenceEnd::kFailed, absl::InternalError("a logit is NaN")));
  const absl::Status status = WarmUp(loop, absl::Seconds(10));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "warm-up step: a logit is NaN");
  InstantLoop odd(Ended(SequenceEnd::kPreempted));
  EXPECT_EQ(WarmUp(odd, absl::Seconds(10)).code(), absl::StatusCode::kInternal);
}

TEST(WarmUp, GivesUpOnALoopThatDoesNotStep) {
  InstantLoop loop(std::nullopt);
  EXPECT_EQ(WarmUp(loop, absl::Milliseconds(10)).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(loop.open());
}

TEST(EngineMetrics, FollowStepsAndTheLoop) {
  telemetry::Metrics metrics("tandem-test");
  EngineMetrics engine_metrics(metrics, {});
  StepStats step;
  step.sequences = 3;
  step.anchors = 2;
  step.prefill_tokens = 30;
  step.forward = absl::Milliseconds(20);
  EngineStats stats;
  stats.preemptions = 5;
  stats.checked = 7;
  engine_metrics.OnStep(step, stats);
  InstantLoop loop(std::nullopt);
  loop.present.running_sequences = 4;
  loop.present.blocks_total = 10;
  loop.present.blocks_free = 3;
  loop.present.blocks_cached = 2;
  loop.present.utilization = 0.5;
  engine_metrics.Follow(&loop);
  const std::string text = metrics.Scrape();
  for (const char* line :
       {"tandem_verifier_preemptions_total 5", "tandem_spec_draft_tokens_total 7",
        "tandem_sequences_running 4", "tandem_kv_blocks{state=\"free\"} 3",
        "tandem_kv_blocks{state=\"cached\"} 2", "tandem_kv_blocks{state=\"used\"} 5",
        "tandem_verifier_utilization_ratio 0.5", "tandem_step_tokens_sum 32",
        "tandem_step_seconds_count{phase=\"forward\"} 1", "tandem_verifier_busy_seconds_total 0.02"}) {
    EXPECT_THAT(text, HasSubstr(std::string("\n") + line + "\n"));
  }
  engine_metrics.Follow(nullptr);
  EXPECT_LE(metrics.num_series(), telemetry::kMaxSeries);
}

}  // namespace
}  // namespace tandem::verifier
