// Asks a process for its health, as grpc.health.v1 defines it.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/option_values.h"

namespace tandem::cli {

// "SERVING", "NOT_SERVING" or "UNKNOWN" for `service` ("liveness", "readiness", "" or a full service name).
absl::StatusOr<std::string> ProbeHealth(const Address& address, const std::string& service,
                                        absl::Duration timeout);

}  // namespace tandem::cli
