#include "gateway/grpc/messages.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "gateway/errors.h"
#include "gateway/limits.h"

namespace tandem::gateway {

absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message) {
  if (static_cast<int64_t>(bytes.Length()) > limits::kGrpcReceiveBytes)
    return error::BodyTooLarge(limits::kGrpcReceiveBytes);
  grpc::ByteBuffer copy(bytes);
  const grpc::Status status =
      grpc::GenericDeserialize<grpc::ProtoBufferReader, google::protobuf::Message>(&copy, &message);
  if (status.ok()) return absl::OkStatus();
  return error::Invalid("", "the request is not a valid " + message.GetDescriptor()->full_name() +
                                ": malformed bytes, nested too deep, or text that is not UTF-8");
}

int CountUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  int unknown = reflection.GetUnknownFields(message).field_count();
  std::vector<const google::protobuf::FieldDescriptor*> present;
  reflection.ListFields(message, &present);
  for (const google::protobuf::FieldDescriptor* field : present) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE || field->is_map()) continue;
    if (!field->is_repeated()) {
      unknown += CountUnknownFields(reflection.GetMessage(message, field));
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i)
      unknown += CountUnknownFields(reflection.GetRepeatedMessage(message, field, i));
  }
  return unknown;
}

grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

nlohmann::ordered_json ToMessages(const v1::Conversation& conversation) {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (const v1::Message& message : conversation.messages()) {
    nlohmann::ordered_json entry;
    entry["role"] = message.role();
    entry["content"] = message.content();
    messages.push_back(std::move(entry));
  }
  return messages;
}

absl::StatusOr<GenerationRequest> ToGenerationRequest(v1::GenerateRequest&& message) {
  GenerationRequest request;
  request.api = "grpc";
  request.model = message.model();
  request.request_id = message.request_id();
  switch (message.input_case()) {
    case v1::GenerateRequest::kConversation:
      request.messages = ToMessages(message.conversation());
      break;
    case v1::GenerateRequest::kText:
      request.prompts.emplace_back(std::move(*message.mutable_text()));
      break;
    case v1::GenerateRequest::kTokenIds:
      request.prompts.emplace_back(
          std::vector<int64_t>(message.token_ids().ids().begin(), message.token_ids().ids().end()));
      break;
    case v1::GenerateRequest::INPUT_NOT_SET:
      return error::Required("input");
  }
  if (message.has_max_tokens()) request.max_tokens = message.max_tokens();
  if (message.min_tokens() != 0) request.min_tokens = message.min_tokens();
  request.ignore_eos = message.ignore_eos();
  if (message.n() != 0) request.n = message.n();
  if (message.priority() != 0) request.priority = message.priority();
  if (message.tpot_target_ms() != 0) request.tpot_target_ms = message.tpot_target_ms();

  const v1::Sampling& sampling = message.sampling();
  if (sampling.has_temperature()) request.temperature = sampling.temperature();
  if (sampling.has_top_p()) request.top_p = sampling.top_p();
  if (sampling.has_min_p()) request.min_p = sampling.min_p();
  if (sampling.has_top_k()) request.top_k = sampling.top_k();
  if (sampling.has_repetition_penalty()) request.repetition_penalty = sampling.repetition_penalty();
  if (sampling.has_frequency_penalty()) request.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_presence_penalty()) request.presence_penalty = sampling.presence_penalty();
  for (const auto& [id, bias] : sampling.logit_bias()) request.logit_bias.emplace_back(id, bias);
  if (sampling.has_seed()) request.seed = sampling.seed();

  request.stop.assign(message.stop().begin(), message.stop().end());
  request.stop_token_ids.assign(message.stop_token_ids().begin(), message.stop_token_ids().end());
  if (message.has_num_logprobs()) request.num_logprobs = message.num_logprobs();
  for (const auto& [name, value] : message.chat_template_kwargs()) request.chat_template_kwargs[name] = value;
  return request;
}

v1::GenerateResponse ToResponse(const Started& started) {
  v1::GenerateResponse response;
  v1::Started& out = *response.mutable_started();
  out.set_request_id(started.request_id);
  out.set_seed(started.seed);
  if (!started.prompt_tokens.empty()) out.set_prompt_tokens(started.prompt_tokens.front());
  out.set_cached_prompt_tokens(started.cached_prompt_tokens);
  out.set_model(started.model);
  out.set_system_fingerprint(started.system_fingerprint);
  return response;
}

v1::GenerateResponse ToResponse(Delta&& delta) {
  v1::GenerateResponse response;
  v1::Delta& out = *response.mutable_delta();
  out.set_choice(delta.choice);
  out.set_first_index(delta.first_index);
  out.set_text(std::move(delta.text));
  const bool any_drafted =
      std::ranges::any_of(delta.tokens, [](const DeltaToken& token) { return token.drafted; });
  for (DeltaToken& token : delta.tokens) {
    out.add_token_ids(token.id);
    if (any_drafted) out.add_drafted(token.drafted);
    if (!token.logprob) continue;
    v1::TokenLogprobs& logprobs = *out.add_logprobs();
    logprobs.set_logprob(*token.logprob);
    for (DeltaToken::Top& top : token.top) {
      v1::TopLogprob& entry = *logprobs.add_top();
      entry.set_token_id(top.id);
      entry.set_token(std::move(top.bytes));
      entry.set_logprob(top.logprob);
    }
  }
  return response;
}

v1::GenerateResponse ToResponse(const Finished& finished) {
  v1::GenerateResponse response;
  v1::Finished& out = *response.mutable_finished();
  out.set_choice(finished.choice);
  out.set_reason(finished.reason == Finished::Reason::kStop ? v1::FINISH_REASON_STOP
                                                            : v1::FINISH_REASON_LENGTH);
  out.set_prompt_tokens(finished.prompt_tokens);
  out.set_output_tokens(finished.output_tokens);
  out.set_drafted_tokens(finished.drafted);
  out.set_checked_tokens(finished.checked);
  out.set_accepted_tokens(finished.accepted);
  out.mutable_steps_by_accepted()->Add(finished.rounds_by_accepted.begin(),
                                       finished.rounds_by_accepted.end());
  return response;
}

}  // namespace tandem::gateway
