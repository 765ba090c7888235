#include "common/rpc/grpc_status.h"

#include <gtest/gtest.h>

namespace tandem::rpc {
namespace {

TEST(GrpcStatus, KeepsCodeAndMessage) {
  const absl::Status status = absl::FailedPreconditionError("x differs");
  EXPECT_EQ(ToGrpcStatus(status).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(GrpcStatus, CutsLongMessagesAtACharacter) {
  const std::string message = std::string(1023, 'x') + "\xc3\xa9 and more";
  EXPECT_EQ(ToGrpcStatus(absl::InternalError(message)).error_message(), std::string(1023, 'x'));
}

TEST(QuoteForMessage, EscapesAndCuts) {
  EXPECT_EQ(QuoteForMessage("a'b\n"), "'a\\'b\\n'");
  EXPECT_EQ(QuoteForMessage(std::string(100, 'y')), "'" + std::string(64, 'y') + "...'");
}

}  // namespace
}  // namespace tandem::rpc
