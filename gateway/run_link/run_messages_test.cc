#include "gateway/run_link/run_messages.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

using ::testing::ElementsAre;

TEST(RunMessagesTest, PlanCarriesEveryField) {
  Plan plan;
  Admission& admission = plan.admissions.emplace_back();
  admission.id = 7;
  admission.epoch = 3;
  admission.token_ids = {1, 2, 3};
  admission.prompt_length = 2;
  admission.sampling.temperature = 0.5f;
  admission.sampling.top_p = 0.9f;
  admission.sampling.min_p = 0.1f;
  admission.sampling.top_k = 40;
  admission.sampling.repetition_penalty = 1.1f;
  admission.sampling.frequency_penalty = -1;
  admission.sampling.presence_penalty = 1;
  admission.sampling.logit_bias = {{5, -100.0f}};
  admission.sampling.seed = ~uint64_t{0};
  admission.min_tokens = 4;
  admission.max_tokens = 9;
  admission.stop_token_ids = {2};
  admission.num_logprobs = 0;
  admission.priority = -4;
  admission.tpot_target_ms = 12.5;
  admission.deadline = absl::FromUnixMillis(123456);
  admission.request_id = "r";
  admission.traceparent = "t";
  admission.tracestate = "s";
  plan.admissions.emplace_back();
  plan.cancellations = {{8, 1}};
  plan.acknowledgements = {{9, 2, 30}};
  plan.prefill_token_budget = 64;
  plan.waiting_sequences = 5;
  plan.waiting_tokens = 1234567890123;

  v1::Plan message;
  FillPlan(plan, 11, message);
  EXPECT_EQ(message.number(), 11u);
  ASSERT_EQ(message.admissions_size(), 2);
  const v1::Admission& out = message.admissions(0);
  EXPECT_EQ(out.id(), 7u);
  EXPECT_EQ(out.epoch(), 3u);
  EXPECT_THAT(out.token_ids(), ElementsAre(1, 2, 3));
  EXPECT_EQ(out.prompt_length(), 2u);
  EXPECT_EQ(out.seed(), ~uint64_t{0});
  EXPECT_EQ(out.temperature(), 0.5f);
  EXPECT_EQ(out.top_p(), 0.9f);
  EXPECT_EQ(out.min_p(), 0.1f);
  EXPECT_EQ(out.top_k(), 40u);
  EXPECT_EQ(out.repetition_penalty(), 1.1f);
  EXPECT_EQ(out.frequency_penalty(), -1);
  EXPECT_EQ(out.presence_penalty(), 1);
  EXPECT_EQ(out.logit_bias().at(5), -100.0f);
  EXPECT_EQ(out.min_tokens(), 4u);
  EXPECT_EQ(out.max_tokens(), 9u);
  EXPECT_THAT(out.stop_token_ids(), ElementsAre(2));
  EXPECT_TRUE(out.has_num_logprobs());
  EXPECT_FALSE(message.admissions(1).has_num_logprobs());
  EXPECT_EQ(out.priority(), -4);
  EXPECT_EQ(out.tpot_target_ms(), 12.5);
  EXPECT_EQ(message.admissions(1).tpot_target_ms(), 0);
  EXPECT_EQ(out.deadline_unix_ms(), 123456);
  EXPECT_EQ(message.admissions(1).deadline_unix_ms(), 0);
  EXPECT_EQ(out.request_id(), "r");
  EXPECT_EQ(out.traceparent(), "t");
  EXPECT_EQ(out.tracestate(), "s");
  EXPECT_EQ(message.cancellations(0).id(), 8u);
  EXPECT_EQ(message.acknowledgements(0).length(), 30u);
  EXPECT_EQ(message.prefill_token_budget(), 64u);
  EXPECT_EQ(message.waiting_sequences(), 5u);
  EXPECT_EQ(message.waiting_tokens(), 1234567890123u);
}

TEST(RunMessagesTest, ReportIsTakenAsItIsNonsenseIncluded) {
  v1::Report message;
  message.set_number(4);
  message.set_kv_free_blocks(0xFFFFFFFF);
  v1::SequenceReport& sequence = *message.add_sequences();
  sequence.set_id(1);
  sequence.add_token_ids(-1);
  sequence.set_accepted_tokens(~uint64_t{0});
  sequence.set_drafted_marks("ab");
  sequence.add_rounds_by_accepted(3);
  v1::ReportedLogprobs& logprobs = *sequence.add_logprobs();
  logprobs.add_top_ids(1);
  logprobs.add_top_ids(2);
  logprobs.add_top_logprobs(-1);
  sequence.set_end(static_cast<v1::SequenceEnd>(99));
  v1::SequenceReport& failed = *message.add_sequences();
  failed.set_end(v1::SEQUENCE_END_FAILED);
  failed.set_error_code(77);
  v1::SequenceReport& no_failure = *message.add_sequences();
  no_failure.set_end(v1::SEQUENCE_END_FAILED);

  const Report report = ReadReport(message);
  EXPECT_EQ(report.number, 4u);
  EXPECT_EQ(report.kv_free_blocks, 0xFFFFFFFF);
  EXPECT_THAT(report.sequences[0].token_ids, ElementsAre(-1));
  EXPECT_EQ(report.sequences[0].accepted, ~uint64_t{0});
  EXPECT_EQ(report.sequences[0].drafted_marks, "ab");
  EXPECT_THAT(report.sequences[0].rounds_by_accepted, ElementsAre(3u));
  EXPECT_EQ(report.sequences[0].logprobs[0].top.size(), 1u);
  EXPECT_EQ(report.sequences[0].end, SequenceEnd::kUnknown);
  EXPECT_EQ(report.sequences[1].error.code(), absl::StatusCode::kUnknown);
  EXPECT_TRUE(report.sequences[2].error.ok());
}

}  // namespace
}  // namespace tandem::gateway
