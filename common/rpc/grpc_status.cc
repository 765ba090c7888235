#include "common/rpc/grpc_status.h"

#include <fmt/format.h>

#include "absl/strings/escaping.h"

namespace tandem::rpc {
namespace {

constexpr size_t kMaxQuotedBytes = 64;

// Cuts so that no UTF-8 character is split.
std::string CutAtCharacter(std::string text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  text.resize(end);
  return text;
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      CutAtCharacter(std::string(status.message()), kMaxStatusMessageBytes));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

std::string QuoteForMessage(const std::string& value) {
  const bool cut = value.size() > kMaxQuotedBytes;
  return fmt::format("'{}{}'", absl::Utf8SafeCEscape(CutAtCharacter(value, kMaxQuotedBytes)),
                     cut ? "..." : "");
}

}  // namespace tandem::rpc
