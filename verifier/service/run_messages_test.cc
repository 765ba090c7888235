#include "verifier/service/run_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr PlanBounds kBounds{.vocab_size = 100, .max_model_len = 64};

v1::Admission GoodAdmission(uint64_t id = 7) {
  v1::Admission admission;
  admission.set_id(id);
  admission.set_epoch(2);
  for (const int32_t token : {1, 2, 3, 99}) admission.add_token_ids(token);
  admission.set_prompt_length(3);
  admission.set_seed(1234);
  admission.set_temperature(0.5);
  admission.set_top_p(0.9f);
  admission.set_repetition_penalty(1);
  admission.set_max_tokens(10);
  return admission;
}

v1::Plan PlanOf(const v1::Admission& admission) {
  v1::Plan plan;
  plan.set_number(1);
  *plan.add_admissions() = admission;
  return plan;
}

TEST(CheckPlan, CarriesEverythingOver) {
  v1::Admission admission = GoodAdmission();
  (*admission.mutable_logit_bias())[9] = 2;
  (*admission.mutable_logit_bias())[4] = -1;
  admission.set_min_tokens(2);
  admission.add_stop_token_ids(5);
  admission.set_num_logprobs(0);
  admission.set_priority(-4);
  admission.set_tpot_target_ms(12.5);
  admission.set_deadline_unix_ms(1500);
  admission.set_cache_owner("key 1");
  admission.set_request_id("r-1");
  admission.set_tracestate("a=1, b=2");
  v1::Plan message = PlanOf(admission);
  message.add_cancellations()->set_id(3);
  v1::Acknowledgement& ack = *message.add_acknowledgements();
  ack.set_id(4);
  ack.set_epoch(1);
  ack.set_length(64);
  message.set_prefill_token_budget(32);
  message.set_waiting_sequences(5);
  message.set_waiting_tokens(500);

  const auto checked = CheckPlan(message, kBounds);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_THAT(checked->refused, IsEmpty());
  const Plan& plan = checked->plan;
  EXPECT_EQ(plan.number, 1u);
  EXPECT_EQ(plan.prefill_token_budget, 32);
  EXPECT_EQ(plan.waiting_sequences, 5);
  EXPECT_EQ(plan.waiting_tokens, 500);
  ASSERT_THAT(plan.cancellations, SizeIs(1));
  EXPECT_EQ(plan.cancellations[0].id, 3u);
  ASSERT_THAT(plan.acknowledgements, SizeIs(1));
  EXPECT_EQ(plan.acknowledgements[0].length, 64);
  ASSERT_THAT(plan.admissions, SizeIs(1));
  const Admission& a = plan.admissions[0];
  EXPECT_EQ(a.id, 7u);
  EXPECT_EQ(a.epoch, 2u);
  EXPECT_THAT(a.tokens, ElementsAre(1, 2, 3, 99));
  EXPECT_EQ(a.prompt_length, 3);
  EXPECT_EQ(a.sampling.seed, 1234u);
  EXPECT_FLOAT_EQ(a.sampling.temperature, 0.5f);
  EXPECT_THAT(a.sampling.logit_bias, ElementsAre(Pair(4, -1.0f), Pair(9, 2.0f)));
  EXPECT_EQ(a.min_tokens, 2);
  EXPECT_EQ(a.max_tokens, 10);
  EXPECT_THAT(a.stop_token_ids, ElementsAre(5));
  EXPECT_EQ(a.num_logprobs, 0);
  EXPECT_EQ(a.priority, -4);
  EXPECT_EQ(a.tpot_target_ms, 12.5);
  EXPECT_EQ(a.deadline, absl::FromUnixMillis(1500));
  EXPECT_EQ(a.cache_owner, "key 1");
  EXPECT_EQ(a.request_id, "r-1");
}

TEST(CheckPlan, AbsentOptionsAreOff) {
  const auto checked = CheckPlan(PlanOf(GoodAdmission()), kBounds);
  ASSERT_TRUE(checked.ok());
  const Admission& a = checked->plan.admissions.at(0);
  EXPECT_EQ(a.num_logprobs, std::nullopt);
  EXPECT_EQ(a.deadline, absl::InfiniteFuture());
}

TEST(CheckPlan, ABadAdmissionFailsAloneAndNamesFieldLimitAndValue) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<std::pair<std::string, std::function<void(v1::Admission&)>>> cases{
      {"token_ids' count must be in 1..63, got 0", [](auto& a) { a.clear_token_ids(); }},
      {"token_ids' count must be in 1..63, got 64", [](auto& a) { a.mutable_token_ids()->Resize(64, 1); }},
      {"token_ids[3] must be in 0..99, got 100", [](auto& a) { a.set_token_ids(3, 100); }},
      {"token_ids[0] must be in 0..99, got -1", [](auto& a) { a.set_token_ids(0, -1); }},
      {"prompt_length must be in 1..4, got 0", [](auto& a) { a.set_prompt_length(0); }},
      {"prompt_length must be in 1..4, got 5", [](auto& a) { a.set_prompt_length(5); }},
      {"max_tokens must be in 1..61, got 0", [](auto& a) { a.set_max_tokens(0); }},
      {"max_tokens must be in 1..61, got 62", [](auto& a) { a.set_max_tokens(62); }},
      {"max_tokens must be in 1..61, got 4294967295", [](auto& a) { a.set_max_tokens(~0u); }},
      {"output so far must be in 0..0, got 1", [](auto& a) { a.set_max_tokens(1); }},
      {"min_tokens must be in 0..10, got 11", [](auto& a) { a.set_min_tokens(11); }},
      {"temperature", [](auto& a) { a.set_temperature(2.5); }},
      {"temperature", [nan](auto& a) { a.set_temperature(nan); }},
      {"top_p", [](auto& a) { a.set_top_p(0); }},
      {"min_p", [](auto& a) { a.set_min_p(2); }},
      {"top_k must be in 0..2147483647, got 2147483648", [](auto& a) { a.set_top_k(1u << 31); }},
      {"repetition_penalty", [](auto& a) { a.set_repetition_penalty(0); }},
      {"frequency_penalty", [nan](auto& a) { a.set_frequency_penalty(nan); }},
      {"presence_penalty", [](auto& a) { a.set_presence_penalty(-3); }},
      {"logit_bias", [](auto& a) { (*a.mutable_logit_bias())[100] = 1; }},
      {"logit_bias", [](auto& a) { (*a.mutable_logit_bias())[1] = 1e9; }},
      {"logit_bias' count must be in 0..1024, got 1025",
       [](auto& a) {
         for (int i = 0; i < 1025; ++i) (*a.mutable_logit_bias())[i] = 1;
       }},
      {"stop_token_ids' count must be in 0..64, got 65",
       [](auto& a) { a.mutable_stop_token_ids()->Resize(65, 1); }},
      {"stop_token_ids[0] must be in 0..99, got 100", [](auto& a) { a.add_stop_token_ids(100); }},
      {"num_logprobs must be in 0..20, got 21", [](auto& a) { a.set_num_logprobs(21); }},
      {"priority must be in -4..4, got 5", [](auto& a) { a.set_priority(5); }},
      {"tpot_target_ms must be in 0..60000, got -1", [](auto& a) { a.set_tpot_target_ms(-1); }},
      {"tpot_target_ms must be in 0..60000, got 60001", [](auto& a) { a.set_tpot_target_ms(60001); }},
      {"tpot_target_ms must be in 0..60000, got nan", [nan](auto& a) { a.set_tpot_target_ms(nan); }},
      {"deadline_unix_ms must be in 0..9223372036854775807, got -1",
       [](auto& a) { a.set_deadline_unix_ms(-1); }},
      {"request_id must have at most 128 bytes, got 129",
       [](auto& a) { a.set_request_id(std::string(129, 'x')); }},
      {"request_id must be printable ASCII without spaces, got 'a\\n'",
       [](auto& a) { a.set_request_id("a\n"); }},
      {"traceparent must have at most 55 bytes, got 56",
       [](auto& a) { a.set_traceparent(std::string(56, '0')); }},
      {"tracestate must have at most 512 bytes, got 513",
       [](auto& a) { a.set_tracestate(std::string(513, 'x')); }},
      {"tracestate must be printable ASCII, got 'a=1,\\n'", [](auto& a) { a.set_tracestate("a=1,\n"); }},
      {"cache_owner must have at most 256 bytes, got 257",
       [](auto& a) { a.set_cache_owner(std::string(257, 'x')); }},
  };
  for (const auto& [message, change] : cases) {
    v1::Admission bad = GoodAdmission(8);
    change(bad);
    v1::Plan plan = PlanOf(bad);
    *plan.add_admissions() = GoodAdmission(9);
    const auto checked = CheckPlan(plan, kBounds);
    ASSERT_TRUE(checked.ok()) << message << ": " << checked.status();
    ASSERT_THAT(checked->plan.admissions, SizeIs(1)) << message;
    EXPECT_EQ(checked->plan.admissions[0].id, 9u);
    ASSERT_THAT(checked->refused, SizeIs(1));
    const SequenceReport& refused = checked->refused[0];
    EXPECT_EQ(refused.id, 8u);
    EXPECT_EQ(refused.epoch, 2u);
    EXPECT_EQ(refused.end, SequenceEnd::kFailed);
    EXPECT_EQ(refused.error.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.error.message()), HasSubstr(message));
  }
}

TEST(CheckPlan, AMalformedPlanIsRefusedAsAWhole) {
  const std::vector<std::pair<std::string, std::function<void(v1::Plan&)>>> cases{
      {"plan admits sequence 7 twice", [](auto& p) { *p.add_admissions() = GoodAdmission(7); }},
      {"plan admits sequence 7 under epoch 0", [](auto& p) { p.mutable_admissions(0)->set_epoch(0); }},
      {"plan.admissions' count must be in 0..1024, got 1025",
       [](auto& p) {
         for (int i = 0; i < 1024; ++i) p.add_admissions()->set_id(100 + static_cast<uint64_t>(i));
       }},
      {"plan.cancellations' count must be in 0..65536, got 65537",
       [](auto& p) {
         for (int i = 0; i < 65537; ++i) p.add_cancellations();
       }},
      {"plan.acknowledgements' count must be in 0..65536, got 65537",
       [](auto& p) {
         for (int i = 0; i < 65537; ++i) p.add_acknowledgements();
       }},
      {"plan acknowledges 65 tokens of sequence 0, the limit is 64",
       [](auto& p) { p.add_acknowledgements()->set_length(65); }},
      {"plan.prefill_token_budget must be in 0..2147483647, got 4294967295",
       [](auto& p) { p.set_prefill_token_budget(~0u); }},
      {"plan.waiting_sequences must be in 0..2147483647, got 4294967295",
       [](auto& p) { p.set_waiting_sequences(~0u); }},
      {"plan.waiting_tokens must be below 2^63, got 18446744073709551615",
       [](auto& p) { p.set_waiting_tokens(~uint64_t{0}); }},
  };
  for (const auto& [message, change] : cases) {
    v1::Plan plan = PlanOf(GoodAdmission());
    change(plan);
    const auto checked = CheckPlan(plan, kBounds);
    EXPECT_EQ(checked.status().code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_EQ(checked.status().message(), message);
  }
}

TEST(FillReport, CarriesEverythingOver) {
  Report report;
  report.plan_number = 3;
  report.kv_free_blocks = 4;
  report.kv_cached_blocks = 5;
  report.running_sequences = 6;
  report.utilization = 0.5;
  report.sequence_share = 7;
  report.prefill_token_share = 8;
  SequenceReport running;
  running.id = 1;
  running.epoch = 2;
  running.length = 12;
  running.first_index = 10;
  running.new_tokens = {41, 42};
  running.logprobs = {{-1.0f, {{41, -1.0f}, {5, -2.0f}}}, {-3.0f, {}}};
  running.computed_length = 11;
  running.cached_length = 9;
  running.drafted = 30;
  running.checked = 20;
  running.accepted = 10;
  running.drafted_marks = std::string("\0\1", 2);
  running.rounds_by_accepted = {3, 0, 5};
  report.sequences.push_back(running);
  SequenceReport failed;
  failed.end = SequenceEnd::kFailed;
  failed.error = absl::ResourceExhaustedError("too long");
  report.sequences.push_back(failed);

  v1::Report out;
  FillReport(report, 17, out);
  EXPECT_EQ(out.number(), 17u);
  EXPECT_EQ(out.plan_number(), 3u);
  EXPECT_EQ(out.kv_free_blocks(), 4u);
  EXPECT_EQ(out.kv_cached_blocks(), 5u);
  EXPECT_EQ(out.running_sequences(), 6u);
  EXPECT_EQ(out.utilization(), 0.5f);
  EXPECT_EQ(out.sequence_share(), 7u);
  EXPECT_EQ(out.prefill_token_share(), 8u);
  ASSERT_EQ(out.sequences_size(), 2);
  const v1::SequenceReport& s = out.sequences(0);
  EXPECT_EQ(s.id(), 1u);
  EXPECT_EQ(s.epoch(), 2u);
  EXPECT_EQ(s.length(), 12u);
  EXPECT_EQ(s.first_index(), 10u);
  EXPECT_THAT(s.token_ids(), ElementsAre(41, 42));
  ASSERT_EQ(s.logprobs_size(), 2);
  EXPECT_EQ(s.logprobs(0).logprob(), -1);
  EXPECT_THAT(s.logprobs(0).top_ids(), ElementsAre(41, 5));
  EXPECT_THAT(s.logprobs(0).top_logprobs(), ElementsAre(-1, -2));
  EXPECT_EQ(s.computed_length(), 11u);
  EXPECT_EQ(s.cached_length(), 9u);
  EXPECT_EQ(s.drafted_tokens(), 30u);
  EXPECT_EQ(s.checked_tokens(), 20u);
  EXPECT_EQ(s.accepted_tokens(), 10u);
  EXPECT_EQ(s.drafted_marks(), std::string("\0\1", 2));
  EXPECT_THAT(s.rounds_by_accepted(), ElementsAre(3u, 0u, 5u));
  EXPECT_EQ(s.end(), v1::SEQUENCE_END_UNSPECIFIED);
  EXPECT_EQ(out.sequences(1).end(), v1::SEQUENCE_END_FAILED);
  EXPECT_EQ(out.sequences(1).error_code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(out.sequences(1).error_message(), "too long");
}

}  // namespace
}  // namespace tandem::verifier
