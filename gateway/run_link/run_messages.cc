#include "gateway/run_link/run_messages.h"

#include <algorithm>

#include "common/rpc/protocol_version.h"

namespace tandem::gateway {
namespace {

void FillAdmission(const Admission& admission, v1::Admission& out) {
  out.set_id(admission.id);
  out.set_epoch(admission.epoch);
  out.mutable_token_ids()->Add(admission.token_ids.begin(), admission.token_ids.end());
  out.set_prompt_length(static_cast<uint32_t>(admission.prompt_length));
  const sampling::SamplingParams& sampling = admission.sampling;
  out.set_seed(sampling.seed);
  out.set_temperature(sampling.temperature);
  out.set_top_p(sampling.top_p);
  out.set_min_p(sampling.min_p);
  out.set_top_k(static_cast<uint32_t>(sampling.top_k));
  out.set_repetition_penalty(sampling.repetition_penalty);
  out.set_frequency_penalty(sampling.frequency_penalty);
  out.set_presence_penalty(sampling.presence_penalty);
  for (const auto& [id, bias] : sampling.logit_bias) (*out.mutable_logit_bias())[id] = bias;
  out.set_min_tokens(static_cast<uint32_t>(admission.min_tokens));
  out.set_max_tokens(static_cast<uint32_t>(admission.max_tokens));
  out.mutable_stop_token_ids()->Add(admission.stop_token_ids.begin(), admission.stop_token_ids.end());
  if (admission.num_logprobs) out.set_num_logprobs(static_cast<uint32_t>(*admission.num_logprobs));
  out.set_priority(admission.priority);
  out.set_tpot_target_ms(admission.tpot_target_ms);
  if (admission.deadline != absl::InfiniteFuture()) {
    out.set_deadline_unix_ms(std::max<int64_t>(1, absl::ToUnixMillis(admission.deadline)));
  }
  out.set_cache_owner(admission.cache_owner);
  out.set_request_id(admission.request_id);
  out.set_traceparent(admission.traceparent);
  out.set_tracestate(admission.tracestate);
}

SequenceEnd ReadEnd(v1::SequenceEnd end) {
  switch (end) {
    case v1::SEQUENCE_END_UNSPECIFIED:
      return SequenceEnd::kRunning;
    case v1::SEQUENCE_END_STOP:
      return SequenceEnd::kStop;
    case v1::SEQUENCE_END_LENGTH:
      return SequenceEnd::kLength;
    case v1::SEQUENCE_END_PREEMPTED:
      return SequenceEnd::kPreempted;
    case v1::SEQUENCE_END_CANCELLED:
      return SequenceEnd::kCancelled;
    case v1::SEQUENCE_END_FAILED:
      return SequenceEnd::kFailed;
    default:
      return SequenceEnd::kUnknown;
  }
}

absl::Status ReadError(int32_t code, const std::string& message) {
  const bool known = code >= 0 && code <= static_cast<int32_t>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown, message);
}

sampling::TokenLogprobs ReadLogprobs(const v1::ReportedLogprobs& message) {
  sampling::TokenLogprobs logprobs;
  logprobs.chosen = message.logprob();
  // Lists of different lengths come out shorter than asked for, which the check finds.
  const int count = std::min(message.top_ids_size(), message.top_logprobs_size());
  for (int i = 0; i < count; ++i) logprobs.top.emplace_back(message.top_ids(i), message.top_logprobs(i));
  return logprobs;
}

SequenceReport ReadSequence(const v1::SequenceReport& message) {
  SequenceReport report;
  report.id = message.id();
  report.epoch = message.epoch();
  report.length = message.length();
  report.first_index = message.first_index();
  report.token_ids.assign(message.token_ids().begin(), message.token_ids().end());
  report.logprobs.reserve(static_cast<size_t>(message.logprobs_size()));
  for (const auto& logprobs : message.logprobs()) report.logprobs.push_back(ReadLogprobs(logprobs));
  report.computed_length = message.computed_length();
  report.cached_length = message.cached_length();
  report.drafted = message.drafted_tokens();
  report.checked = message.checked_tokens();
  report.accepted = message.accepted_tokens();
  report.drafted_marks = message.drafted_marks();
  report.rounds_by_accepted.assign(message.rounds_by_accepted().begin(), message.rounds_by_accepted().end());
  report.end = ReadEnd(message.end());
  if (report.end == SequenceEnd::kFailed)
    report.error = ReadError(message.error_code(), message.error_message());
  return report;
}

}  // namespace

void FillHello(const GatewayHello& hello, v1::GatewayHello& out) {
  out.mutable_protocol()->set_major(rpc::kProtocolMajor);
  out.mutable_protocol()->set_minor(rpc::kProtocolMinor);
  out.set_incarnation(hello.incarnation);
  out.set_sampling_version(rpc::kSamplingVersion);
  out.set_model_fingerprint(hello.identity.fingerprint);
  out.set_numerics_id(hello.identity.numerics_id);
  out.set_tokenizer_hash(hello.tokenizer_hash);
  out.set_vocab_size(static_cast<uint32_t>(hello.vocab_size));
}

void FillPlan(const Plan& plan, uint64_t number, v1::Plan& out) {
  out.set_number(number);
  for (const Admission& admission : plan.admissions) FillAdmission(admission, *out.add_admissions());
  for (const Cancellation& cancellation : plan.cancellations) {
    v1::Cancellation& entry = *out.add_cancellations();
    entry.set_id(cancellation.id);
    entry.set_epoch(cancellation.epoch);
  }
  for (const Acknowledgement& acknowledgement : plan.acknowledgements) {
    v1::Acknowledgement& entry = *out.add_acknowledgements();
    entry.set_id(acknowledgement.id);
    entry.set_epoch(acknowledgement.epoch);
    entry.set_length(static_cast<uint32_t>(acknowledgement.length));
  }
  out.set_prefill_token_budget(static_cast<uint32_t>(plan.prefill_token_budget));
  out.set_waiting_sequences(static_cast<uint32_t>(plan.waiting_sequences));
  out.set_waiting_tokens(static_cast<uint64_t>(plan.waiting_tokens));
}

VerifierHello ReadHello(const v1::VerifierHello& message) {
  VerifierHello hello;
  hello.protocol_major = message.protocol().major();
  hello.protocol_minor = message.protocol().minor();
  hello.incarnation = message.incarnation();
  hello.sampling_version = message.sampling_version();
  hello.identity = {message.model_fingerprint(), message.numerics_id()};
  hello.tokenizer_hash = message.tokenizer_hash();
  hello.vocab_size = message.vocab_size();
  hello.eos_token_ids.assign(message.eos_token_ids().begin(), message.eos_token_ids().end());
  hello.max_model_len = message.max_model_len();
  hello.kv_block_positions = message.kv_block_positions();
  hello.kv_total_blocks = message.kv_total_blocks();
  hello.max_sequences = message.max_sequences();
  hello.draft_block_size = message.draft_block_size();
  return hello;
}

Report ReadReport(const v1::Report& message) {
  Report report;
  report.number = message.number();
  report.plan_number = message.plan_number();
  report.sequences.reserve(static_cast<size_t>(message.sequences_size()));
  for (const auto& sequence : message.sequences()) report.sequences.push_back(ReadSequence(sequence));
  report.kv_free_blocks = message.kv_free_blocks();
  report.kv_cached_blocks = message.kv_cached_blocks();
  report.running_sequences = message.running_sequences();
  report.utilization = message.utilization();
  report.sequence_share = message.sequence_share();
  report.prefill_token_share = message.prefill_token_share();
  return report;
}

}  // namespace tandem::gateway
