#include "common/rpc/grpc_logs.h"

#include <grpc/support/log.h>

#include "absl/base/const_init.h"
#include "absl/synchronization/mutex.h"

namespace tandem::rpc {
namespace {

ABSL_CONST_INIT absl::Mutex mu(absl::kConstInit);
telemetry::Logger* current ABSL_GUARDED_BY(mu) = nullptr;

void Log(gpr_log_func_args* arguments) {
  if (arguments->severity != GPR_LOG_SEVERITY_ERROR) return;
  absl::MutexLock lock(&mu);
  if (current != nullptr) current->Warning("gRPC reports an error", {{"detail", arguments->message}});
}

}  // namespace

void SetGrpcLogger(telemetry::Logger* logger) {
  absl::MutexLock lock(&mu);
  current = logger;
  gpr_set_log_function(Log);
}

}  // namespace tandem::rpc
