// absl::Status to grpc::Status and back: the codes are the same numbers.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace tandem::rpc {

inline constexpr size_t kMaxStatusMessageBytes = 1024;

// Messages beyond 1 KiB are cut at a whole character, so that they never meet a metadata limit.
grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// A value that came from a peer, for an error message: at most 64 bytes, control characters and quotes
// escaped.
std::string QuoteForMessage(const std::string& value);

}  // namespace tandem::rpc
