#include "verifier/service/run_outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;

Report ReportOf(uint64_t id, std::vector<int32_t> tokens, int32_t first_index) {
  Report report;
  SequenceReport sequence;
  sequence.id = id;
  sequence.epoch = 1;
  sequence.first_index = first_index;
  sequence.length = first_index + static_cast<int32_t>(tokens.size());
  sequence.new_tokens = std::move(tokens);
  report.sequences.push_back(std::move(sequence));
  return report;
}

Report First() {
  Report report;
  report.sequence_share = 3;
  return report;
}

TEST(RunOutbox, SaysHelloThenDrainingThenReports) {
  RunOutbox outbox(v1::VerifierHello(), First());
  outbox.Put(ReportOf(1, {5}, 10));
  outbox.PutDraining(absl::Seconds(30));
  v1::RunResponse out;
  ASSERT_TRUE(outbox.Take(out));
  EXPECT_TRUE(out.has_hello());
  ASSERT_TRUE(outbox.Take(out));
  EXPECT_EQ(out.draining().drain_ms(), 30000u);
  ASSERT_TRUE(outbox.Take(out));
  EXPECT_EQ(out.report().number(), 1u);
  out.Clear();
  EXPECT_FALSE(outbox.Take(out));
}

TEST(RunOutbox, MergesPerSequenceWhatIsNotSentYet) {
  RunOutbox outbox(v1::VerifierHello(), First());
  v1::RunResponse out;
  ASSERT_TRUE(outbox.Take(out));
  outbox.Put(ReportOf(1, {5}, 10));
  outbox.Put(ReportOf(2, {6}, 20));
  Report last = ReportOf(1, {7, 8}, 11);
  last.plan_number = 4;
  last.sequences[0].end = SequenceEnd::kStop;
  outbox.Put(std::move(last));
  ASSERT_TRUE(outbox.Take(out));
  const v1::Report& report = out.report();
  EXPECT_EQ(report.plan_number(), 4u);
  ASSERT_EQ(report.sequences_size(), 2);
  EXPECT_THAT(report.sequences(0).token_ids(), ElementsAre(5, 7, 8));
  EXPECT_EQ(report.sequences(0).first_index(), 10u);
  EXPECT_EQ(report.sequences(0).length(), 13u);
  EXPECT_EQ(report.sequences(0).end(), v1::SEQUENCE_END_STOP);
  EXPECT_THAT(report.sequences(1).token_ids(), ElementsAre(6));
}

TEST(RunOutbox, ReportsRefusedSequencesWithTheLatestNumbers) {
  RunOutbox outbox(v1::VerifierHello(), First());
  v1::RunResponse out;
  ASSERT_TRUE(outbox.Take(out));
  SequenceReport refused;
  refused.id = 9;
  refused.end = SequenceEnd::kFailed;
  refused.error = absl::InvalidArgumentError("no");
  outbox.PutEnded({refused});
  ASSERT_TRUE(outbox.Take(out));
  EXPECT_EQ(out.report().sequence_share(), 3u);
  EXPECT_EQ(out.report().sequences(0).id(), 9u);

  Report report = ReportOf(1, {5}, 10);
  report.sequence_share = 2;
  report.plan_number = 1;
  outbox.Put(std::move(report));
  ASSERT_TRUE(outbox.Take(out));
  outbox.PutEnded({refused});
  out.Clear();
  ASSERT_TRUE(outbox.Take(out));
  EXPECT_EQ(out.report().number(), 3u);
  EXPECT_EQ(out.report().sequence_share(), 2u);
  EXPECT_EQ(out.report().plan_number(), 1u);
  ASSERT_EQ(out.report().sequences_size(), 1);
}

TEST(RunOutbox, HeartbeatsFillSilenceOnly) {
  RunOutbox outbox(v1::VerifierHello(), First());
  v1::RunResponse out;
  ASSERT_TRUE(outbox.Take(out));
  Report now;
  now.kv_free_blocks = 8;
  EXPECT_TRUE(outbox.PutHeartbeat(now));
  ASSERT_TRUE(outbox.Take(out));
  EXPECT_EQ(out.report().number(), 1u);
  EXPECT_EQ(out.report().kv_free_blocks(), 8u);
  EXPECT_EQ(out.report().sequence_share(), 3u);
  EXPECT_FALSE(outbox.PutHeartbeat(now)) << "a report went out since the last one";
  EXPECT_FALSE(outbox.Take(out));
  EXPECT_TRUE(outbox.PutHeartbeat(now));
}

}  // namespace
}  // namespace tandem::verifier
