// Sends what the gRPC library logs through our logger, so that stderr holds nothing but our lines.
#pragma once

#include "common/telemetry/logs.h"

namespace tandem::rpc {

// gRPC's errors become warnings of ours with its text as a field; its information is left out. gRPC has one
// log function per process, hence the one place where a logger is global: `nullptr` drops everything from
// then on, and must be set before the logger goes.
void SetGrpcLogger(telemetry::Logger* logger);

}  // namespace tandem::rpc
