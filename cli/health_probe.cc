#include "cli/health_probe.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>

#include <condition_variable>
#include <mutex>

#include "absl/time/clock.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

// Debian ships no generated code for grpc.health.v1; its two messages have one field each.
grpc::ByteBuffer HealthCheckRequest(const std::string& service) {
  std::string bytes;
  if (!service.empty()) bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

absl::StatusOr<std::string> ParseHealthCheckResponse(grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  if (!buffer.DumpToSingleSlice(&slice).ok()) return Internal("unreadable health answer");
  if (slice.size() == 0) return std::string("UNKNOWN");  // enum value 0 is left out
  if (slice.size() != 2 || slice.begin()[0] != 0x08) return Internal("malformed health answer");
  switch (slice.begin()[1]) {
    case 1:
      return std::string("SERVING");
    case 2:
      return std::string("NOT_SERVING");
    default:
      return std::string("UNKNOWN");
  }
}

}  // namespace

absl::StatusOr<std::string> ProbeHealth(const Address& address, const std::string& service,
                                        absl::Duration timeout) {
  if (service.size() > 127)
    return InvalidArgument("service must have at most 127 bytes, got {}", service.size());
  grpc::GenericStub stub(grpc::CreateChannel(address.ToString(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  const grpc::ByteBuffer request = HealthCheckRequest(service);
  grpc::ByteBuffer response;
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  grpc::Status result;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request, &response,
                 [&](grpc::Status status) {
                   const std::lock_guard lock(mutex);
                   result = std::move(status);
                   done = true;
                   ended.notify_one();
                 });
  std::unique_lock lock(mutex);
  ended.wait(lock, [&] { return done; });
  if (!result.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(result.error_code()),
                        address.ToString() + ": " + result.error_message());
  }
  return ParseHealthCheckResponse(response);
}

}  // namespace tandem::cli
