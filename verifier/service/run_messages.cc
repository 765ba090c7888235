#include "verifier/service/run_messages.h"

#include <algorithm>
#include <limits>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "common/rpc/grpc_status.h"

namespace tandem::verifier {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();

absl::Status CheckRange(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidArgument("{} must be in {}..{}, got {}", field, min, max, value);
}

absl::Status CheckTokens(const char* field, const google::protobuf::RepeatedField<int32_t>& ids,
                         int32_t vocab_size) {
  const auto bad =
      std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id < 0 || id >= vocab_size; });
  if (bad == ids.end()) return absl::OkStatus();
  return InvalidArgument("{}[{}] must be in 0..{}, got {}", field, bad - ids.begin(), vocab_size - 1, *bad);
}

absl::Status CheckText(const char* field, const std::string& text, size_t max_bytes, bool spaces = false) {
  if (text.size() > max_bytes) {
    return InvalidArgument("{} must have at most {} bytes, got {}", field, max_bytes, text.size());
  }
  const bool printable = std::all_of(text.begin(), text.end(), [&](unsigned char c) {
    return absl::ascii_isgraph(c) || (spaces && c == ' ');
  });
  if (!printable) {
    return InvalidArgument("{} must be printable ASCII{}, got {}", field, spaces ? "" : " without spaces",
                           rpc::QuoteForMessage(text));
  }
  return absl::OkStatus();
}

absl::Status CheckLengths(const v1::Admission& message, const PlanBounds& bounds) {
  const int64_t length = message.token_ids_size();
  RETURN_IF_ERROR(CheckRange("token_ids' count", length, 1, bounds.max_model_len - 1));
  RETURN_IF_ERROR(CheckTokens("token_ids", message.token_ids(), bounds.vocab_size));
  RETURN_IF_ERROR(CheckRange("prompt_length", message.prompt_length(), 1, length));
  RETURN_IF_ERROR(CheckRange("max_tokens", message.max_tokens(), 1,
                             bounds.max_model_len - int64_t{message.prompt_length()}));
  RETURN_IF_ERROR(
      CheckRange("output so far", length - message.prompt_length(), 0, int64_t{message.max_tokens()} - 1));
  return CheckRange("min_tokens", message.min_tokens(), 0, message.max_tokens());
}

absl::StatusOr<sampling::SamplingParams> CheckSampling(const v1::Admission& message,
                                                       const PlanBounds& bounds) {
  RETURN_IF_ERROR(CheckRange("top_k", message.top_k(), 0, kInt32Max));
  RETURN_IF_ERROR(
      CheckRange("logit_bias' count", static_cast<int64_t>(message.logit_bias().size()), 0, kMaxLogitBias));
  sampling::SamplingParams params;
  params.temperature = message.temperature();
  params.top_k = static_cast<int32_t>(message.top_k());
  params.top_p = message.top_p();
  params.min_p = message.min_p();
  params.repetition_penalty = message.repetition_penalty();
  params.frequency_penalty = message.frequency_penalty();
  params.presence_penalty = message.presence_penalty();
  params.logit_bias.assign(message.logit_bias().begin(), message.logit_bias().end());
  // A map has no order of its own; equal requests must do equal arithmetic.
  std::sort(params.logit_bias.begin(), params.logit_bias.end());
  params.seed = message.seed();
  RETURN_IF_ERROR(sampling::ValidateSamplingParams(params, bounds.vocab_size));
  return params;
}

absl::StatusOr<Admission> CheckAdmission(const v1::Admission& message, const PlanBounds& bounds) {
  RETURN_IF_ERROR(CheckLengths(message, bounds));
  Admission admission;
  ASSIGN_OR_RETURN(admission.sampling, CheckSampling(message, bounds));
  RETURN_IF_ERROR(CheckRange("stop_token_ids' count", message.stop_token_ids_size(), 0, kMaxStopTokenIds));
  RETURN_IF_ERROR(CheckTokens("stop_token_ids", message.stop_token_ids(), bounds.vocab_size));
  if (message.has_num_logprobs()) {
    RETURN_IF_ERROR(CheckRange("num_logprobs", message.num_logprobs(), 0, kMaxLogprobs));
    admission.num_logprobs = static_cast<int32_t>(message.num_logprobs());
  }
  RETURN_IF_ERROR(CheckRange("priority", message.priority(), -kMaxPriority, kMaxPriority));
  if (!(message.tpot_target_ms() >= 0 && message.tpot_target_ms() <= kMaxTpotTargetMs)) {
    return InvalidArgument("tpot_target_ms must be in 0..{}, got {}", kMaxTpotTargetMs,
                           message.tpot_target_ms());
  }
  RETURN_IF_ERROR(
      CheckRange("deadline_unix_ms", message.deadline_unix_ms(), 0, std::numeric_limits<int64_t>::max()));
  RETURN_IF_ERROR(CheckText("request_id", message.request_id(), kMaxRequestIdBytes));
  RETURN_IF_ERROR(CheckText("traceparent", message.traceparent(), kMaxTraceparentBytes));
  RETURN_IF_ERROR(CheckText("tracestate", message.tracestate(), kMaxTracestateBytes, /*spaces=*/true));
  if (message.cache_owner().size() > kMaxCacheOwnerBytes) {
    return InvalidArgument("cache_owner must have at most {} bytes, got {}", kMaxCacheOwnerBytes,
                           message.cache_owner().size());
  }
  admission.id = message.id();
  admission.epoch = message.epoch();
  admission.tokens.assign(message.token_ids().begin(), message.token_ids().end());
  admission.prompt_length = static_cast<int32_t>(message.prompt_length());
  admission.min_tokens = static_cast<int32_t>(message.min_tokens());
  admission.max_tokens = static_cast<int32_t>(message.max_tokens());
  admission.stop_token_ids.assign(message.stop_token_ids().begin(), message.stop_token_ids().end());
  admission.priority = message.priority();
  admission.tpot_target_ms = message.tpot_target_ms();
  if (message.deadline_unix_ms() > 0) admission.deadline = absl::FromUnixMillis(message.deadline_unix_ms());
  admission.cache_owner = message.cache_owner();
  admission.request_id = message.request_id();
  return admission;
}

SequenceReport Refusal(const v1::Admission& message, const absl::Status& error) {
  SequenceReport report;
  report.id = message.id();
  report.epoch = message.epoch();
  report.length = report.first_index = message.token_ids_size();
  report.end = SequenceEnd::kFailed;
  report.error = error;
  return report;
}

v1::SequenceEnd ToProto(SequenceEnd end) {
  switch (end) {
    case SequenceEnd::kRunning:
      return v1::SEQUENCE_END_UNSPECIFIED;
    case SequenceEnd::kStop:
      return v1::SEQUENCE_END_STOP;
    case SequenceEnd::kLength:
      return v1::SEQUENCE_END_LENGTH;
    case SequenceEnd::kPreempted:
      return v1::SEQUENCE_END_PREEMPTED;
    case SequenceEnd::kCancelled:
      return v1::SEQUENCE_END_CANCELLED;
    case SequenceEnd::kFailed:
      return v1::SEQUENCE_END_FAILED;
  }
  return v1::SEQUENCE_END_FAILED;
}

void FillSequence(const SequenceReport& report, v1::SequenceReport& out) {
  out.set_id(report.id);
  out.set_epoch(report.epoch);
  out.set_length(static_cast<uint32_t>(report.length));
  out.set_first_index(static_cast<uint32_t>(report.first_index));
  out.mutable_token_ids()->Add(report.new_tokens.begin(), report.new_tokens.end());
  for (const sampling::TokenLogprobs& logprobs : report.logprobs) {
    v1::ReportedLogprobs& entry = *out.add_logprobs();
    entry.set_logprob(logprobs.chosen);
    for (const auto& [id, logprob] : logprobs.top) {
      entry.add_top_ids(id);
      entry.add_top_logprobs(logprob);
    }
  }
  out.set_computed_length(static_cast<uint32_t>(report.computed_length));
  out.set_cached_length(static_cast<uint32_t>(report.cached_length));
  out.set_drafted_tokens(static_cast<uint64_t>(report.drafted));
  out.set_checked_tokens(static_cast<uint64_t>(report.checked));
  out.set_accepted_tokens(static_cast<uint64_t>(report.accepted));
  out.mutable_rounds_by_accepted()->Add(report.rounds_by_accepted.begin(), report.rounds_by_accepted.end());
  if (report.drafted_marks.find('\1') != std::string::npos) out.set_drafted_marks(report.drafted_marks);
  out.set_end(ToProto(report.end));
  if (report.end == SequenceEnd::kFailed) {
    const grpc::Status status = rpc::ToGrpcStatus(report.error);
    out.set_error_code(status.error_code());
    out.set_error_message(status.error_message());
  }
}

}  // namespace

absl::StatusOr<CheckedPlan> CheckPlan(const v1::Plan& message, const PlanBounds& bounds) {
  RETURN_IF_ERROR(CheckRange("plan.admissions' count", message.admissions_size(), 0, kMaxAdmissions));
  RETURN_IF_ERROR(
      CheckRange("plan.cancellations' count", message.cancellations_size(), 0, kMaxCancellations));
  RETURN_IF_ERROR(
      CheckRange("plan.acknowledgements' count", message.acknowledgements_size(), 0, kMaxAcknowledgements));
  RETURN_IF_ERROR(CheckRange("plan.prefill_token_budget", message.prefill_token_budget(), 0, kInt32Max));
  RETURN_IF_ERROR(CheckRange("plan.waiting_sequences", message.waiting_sequences(), 0, kInt32Max));
  if (message.waiting_tokens() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return InvalidArgument("plan.waiting_tokens must be below 2^63, got {}", message.waiting_tokens());
  }
  CheckedPlan checked;
  Plan& plan = checked.plan;
  plan.number = message.number();
  plan.prefill_token_budget = static_cast<int32_t>(message.prefill_token_budget());
  plan.waiting_sequences = static_cast<int32_t>(message.waiting_sequences());
  plan.waiting_tokens = static_cast<int64_t>(message.waiting_tokens());

  absl::flat_hash_set<uint64_t> ids;
  for (const v1::Admission& admission : message.admissions()) {
    if (admission.epoch() == 0)
      return InvalidArgument("plan admits sequence {} under epoch 0", admission.id());
    if (!ids.insert(admission.id()).second)
      return InvalidArgument("plan admits sequence {} twice", admission.id());
    absl::StatusOr<Admission> result = CheckAdmission(admission, bounds);
    if (result.ok()) {
      plan.admissions.push_back(*std::move(result));
    } else {
      checked.refused.push_back(Refusal(admission, result.status()));
    }
  }
  for (const v1::Cancellation& cancellation : message.cancellations()) {
    plan.cancellations.push_back({cancellation.id(), cancellation.epoch()});
  }
  for (const v1::Acknowledgement& ack : message.acknowledgements()) {
    if (ack.length() > static_cast<uint32_t>(bounds.max_model_len)) {
      return InvalidArgument("plan acknowledges {} tokens of sequence {}, the limit is {}", ack.length(),
                             ack.id(), bounds.max_model_len);
    }
    plan.acknowledgements.push_back({ack.id(), ack.epoch(), static_cast<int32_t>(ack.length())});
  }
  return checked;
}

void FillReport(const Report& report, uint64_t number, v1::Report& out) {
  out.set_number(number);
  out.set_plan_number(report.plan_number);
  for (const SequenceReport& sequence : report.sequences) FillSequence(sequence, *out.add_sequences());
  out.set_kv_free_blocks(static_cast<uint32_t>(report.kv_free_blocks));
  out.set_kv_cached_blocks(static_cast<uint32_t>(report.kv_cached_blocks));
  out.set_running_sequences(static_cast<uint32_t>(report.running_sequences));
  out.set_utilization(static_cast<float>(report.utilization));
  out.set_sequence_share(static_cast<uint32_t>(report.sequence_share));
  out.set_prefill_token_share(static_cast<uint32_t>(report.prefill_token_share));
}

}  // namespace tandem::verifier
