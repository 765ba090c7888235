// A gateway error as gRPC answers it: code, message, and google.rpc details.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace tandem::gateway {

// ErrorInfo always (reason, domain "tandem"), BadRequest where a field is known, RetryInfo where a retry
// makes sense.
grpc::Status ToGrpcStatusWithDetails(const absl::Status& status);

// The same, and tells retrying clients when to come back (grpc-retry-pushback-ms in the trailing metadata).
grpc::Status FinalStatus(const absl::Status& status, grpc::CallbackServerContext& context);

}  // namespace tandem::gateway
