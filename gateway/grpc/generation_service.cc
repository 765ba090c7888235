#include "gateway/grpc/generation_service.h"

#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/grpc/generate_call.h"
#include "gateway/grpc/messages.h"
#include "gateway/grpc/status_details.h"

namespace tandem::gateway {
namespace {

// Runs a unary handler (message in, StatusOr of message out); nothing it throws leaves.
template <typename Request, typename Handler>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext& context, DoorObserver& observer,
                                 const grpc::ByteBuffer& bytes, grpc::ByteBuffer& out,
                                 const Handler& handler) {
  const auto answer = [&]() -> absl::Status {
    Request request;
    RETURN_IF_ERROR(ParseMessage(bytes, request));
    if (const int unknown = CountUnknownFields(request); unknown > 0) observer.OnUnknownFields(unknown);
    ASSIGN_OR_RETURN(const auto response, handler(request));
    out = SerializeMessage(response);
    return absl::OkStatus();
  };
  absl::Status status;
  try {
    status = answer();
  } catch (...) {  // no memory, above all
    status = error::InternalError("");
  }
  if (!status.ok()) observer.OnRefused("grpc", status);
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  reactor->Finish(FinalStatus(status, context));
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerationService::Generate(grpc::CallbackServerContext* context,
                                                                        const grpc::ByteBuffer* request) {
  ++open_streams_;
  auto* call =
      new GenerateCall(*context, observer_, options_, [this] { --open_streams_; });  // deletes itself
  call->Start(*request, generator_);
  return call;
}

grpc::ServerUnaryReactor* GenerationService::Tokenize(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return Answer<v1::TokenizeRequest>(
      *context, observer_, *request, *response,
      [this](const v1::TokenizeRequest& message) -> absl::StatusOr<v1::TokenizeResponse> {
        TokenizeRequest request{.model = message.model(), .text = {}, .messages = {}};
        if (message.has_text()) {
          request.text = message.text();
        } else if (message.has_conversation()) {
          request.messages = ToMessages(message.conversation());
        } else {
          return error::Required("input");
        }
        for (const auto& [name, value] : message.chat_template_kwargs())
          request.chat_template_kwargs[name] = value;
        ASSIGN_OR_RETURN(const std::vector<int32_t> ids, generator_.Tokenize(request));
        v1::TokenizeResponse out;
        out.mutable_token_ids()->Add(ids.begin(), ids.end());
        out.set_max_model_len(generator_.model_info().max_model_len);
        return out;
      });
}

grpc::ServerUnaryReactor* GenerationService::Detokenize(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return Answer<v1::DetokenizeRequest>(
      *context, observer_, *request, *response,
      [this](const v1::DetokenizeRequest& message) -> absl::StatusOr<v1::DetokenizeResponse> {
        const std::vector<int64_t> ids(message.token_ids().begin(), message.token_ids().end());
        ASSIGN_OR_RETURN(std::string text, generator_.Detokenize(message.model(), "token_ids", ids));
        v1::DetokenizeResponse out;
        out.set_text(std::move(text));
        return out;
      });
}

grpc::ServerUnaryReactor* GenerationService::ListModels(grpc::CallbackServerContext* context,
                                                        const grpc::ByteBuffer* request,
                                                        grpc::ByteBuffer* response) {
  return Answer<v1::ListModelsRequest>(
      *context, observer_, *request, *response,
      [this](const v1::ListModelsRequest&) -> absl::StatusOr<v1::ListModelsResponse> {
        const ModelInfo info = generator_.model_info();
        v1::ListModelsResponse out;
        v1::Model& model = *out.add_models();
        model.set_id(info.id);
        for (const std::string& alias : info.aliases) model.add_aliases(alias);
        model.set_max_model_len(info.max_model_len);
        model.set_vocab_size(info.vocab_size);
        model.set_system_fingerprint(info.system_fingerprint);
        return out;
      });
}

}  // namespace tandem::gateway
