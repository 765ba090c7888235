#include "gateway/grpc/status_details.h"

#include <string>

#include "absl/strings/ascii.h"
#include "common/rpc/grpc_status.h"
#include "gateway/errors.h"
#include "gateway/limits.h"
#include "google/rpc/error_details.pb.h"

namespace tandem::gateway {

grpc::Status ToGrpcStatusWithDetails(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const grpc::Status plain = rpc::ToGrpcStatus(status);
  google::rpc::Status details;
  details.set_code(plain.error_code());
  details.set_message(plain.error_message());
  google::rpc::ErrorInfo info;
  info.set_reason(absl::AsciiStrToUpper(ErrorReasonName(ReasonOf(status))));
  info.set_domain("tandem");
  details.add_details()->PackFrom(info);
  if (const std::string param = ParamOf(status); !param.empty()) {
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(param);
    violation->set_description(plain.error_message());
    details.add_details()->PackFrom(bad_request);
  }
  if (const auto retry_after = RetryAfterOf(status)) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(*retry_after));
    details.add_details()->PackFrom(retry);
  }
  std::string bytes = details.SerializeAsString();
  if (bytes.size() > limits::kErrorDetailsBytes) bytes.clear();
  return grpc::Status(plain.error_code(), plain.error_message(), bytes);
}

grpc::Status FinalStatus(const absl::Status& status, grpc::CallbackServerContext& context) {
  if (const auto retry_after = RetryAfterOf(status)) {
    context.AddTrailingMetadata("grpc-retry-pushback-ms",
                                std::to_string(absl::ToInt64Milliseconds(*retry_after)));
  }
  return ToGrpcStatusWithDetails(status);
}

}  // namespace tandem::gateway
