// generation.proto's messages to and from the gateway's own.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "gateway/admission/generator.h"
#include "nlohmann/json.hpp"
#include "tandem/v1/generation.pb.h"

namespace tandem::gateway {

// kInvalidArgument if the bytes are no such message: malformed, nested too deep, or text that is not UTF-8;
// too_large beyond limits::kGrpcReceiveBytes.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message& message);
grpc::ByteBuffer SerializeMessage(const google::protobuf::Message& message);

// Fields that generation.proto does not have, in the message and those inside it.
int CountUnknownFields(const google::protobuf::Message& message);

// Values are not checked here; the Generator does that for both doors.

absl::StatusOr<GenerationRequest> ToGenerationRequest(v1::GenerateRequest&& message);
nlohmann::ordered_json ToMessages(const v1::Conversation& conversation);

v1::GenerateResponse ToResponse(const Started& started);
v1::GenerateResponse ToResponse(Delta&& delta);
v1::GenerateResponse ToResponse(const Finished& finished);

}  // namespace tandem::gateway
