#include "common/telemetry/health.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/client_unary_call.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/telemetry/watchdog.h"

namespace tandem::telemetry {
namespace {

// grpc.health.v1 by hand (field 1 of both messages), so that the test needs no generated code.
constexpr char kServing = 1, kNotServing = 2;

grpc::ByteBuffer CheckRequest(const std::string& service) {
  std::string bytes =
      service.empty() ? "" : std::string("\x0a") + static_cast<char>(service.size()) + service;
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

class HealthTest : public ::testing::Test {
 protected:
  void SetUp() override {
    EnableGrpcHealth();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterCallbackGenericService(&other_);  // gRPC starts no server without a service
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    health_.Attach(*server_);
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());
  }
  void TearDown() override { health_.Detach(); }

  // The state by its number, or minus the status code.
  int Check(const std::string& service) {
    grpc::ClientContext context;
    grpc::ByteBuffer response;
    const grpc::ByteBuffer request = CheckRequest(service);
    const grpc::Status status = grpc::internal::BlockingUnaryCall(
        channel_.get(),
        grpc::internal::RpcMethod("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC),
        &context, request, &response);
    if (!status.ok()) return -static_cast<int>(status.error_code());
    grpc::Slice slice;
    EXPECT_TRUE(response.DumpToSingleSlice(&slice).ok());
    return slice.size() < 2 ? 0 : slice.begin()[1];
  }

  Health health_{{"tandem.v1.Verifier"}};
  grpc::CallbackGenericService other_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(HealthTest, ALoadingProcessLivesButIsNotReady) {
  EXPECT_EQ(Check("liveness"), kServing);
  for (const char* name : {"readiness", "", "tandem.v1.Verifier"})
    EXPECT_EQ(Check(name), kNotServing) << name;
}

TEST_F(HealthTest, AReadyProcessServesUnderAllItsNames) {
  health_.SetReady(true);
  for (const char* name : {"liveness", "readiness", "", "tandem.v1.Verifier"})
    EXPECT_EQ(Check(name), kServing) << name;
  health_.SetReady(false);
  EXPECT_EQ(Check("liveness"), kServing);
  EXPECT_EQ(Check(""), kNotServing);
}

TEST_F(HealthTest, AStuckProcessIsNeither) {
  health_.SetReady(true);
  health_.SetLive(false);
  for (const char* name : {"liveness", "readiness", "", "tandem.v1.Verifier"}) {
    EXPECT_EQ(Check(name), kNotServing) << name;
  }
  EXPECT_FALSE(health_.ready());
  health_.SetLive(true);
  EXPECT_TRUE(health_.ready());
}

TEST_F(HealthTest, OtherNamesAreNotFound) {
  EXPECT_EQ(Check("tandem.v1.Generation"), -static_cast<int>(grpc::StatusCode::NOT_FOUND));
}

TEST(Watchdog, FollowsTheStall) {
  Health health({});
  absl::Mutex mu;
  absl::Duration stalled;
  int num_looks = 0;
  Watchdog watchdog(
      {.limit = absl::Seconds(30), .period = absl::Milliseconds(1)},
      [&] {
        absl::MutexLock lock(&mu);
        ++num_looks;
        return stalled;
      },
      health);
  // Whether it lives by what the watchdog has seen: the look after the next, for then the next has had its
  // effect.
  const auto live_when = [&](absl::Duration stalled_for) {
    absl::MutexLock lock(&mu);
    stalled = stalled_for;
    const int enough = num_looks + 2;
    const auto looked = [&] { return num_looks >= enough; };
    EXPECT_TRUE(mu.AwaitWithTimeout(absl::Condition(&looked), absl::Seconds(30)));
    return health.live();
  };
  EXPECT_TRUE(live_when(absl::Seconds(30)));
  EXPECT_FALSE(live_when(absl::Seconds(30) + absl::Nanoseconds(1)));
  EXPECT_TRUE(live_when(absl::ZeroDuration()));
}

}  // namespace
}  // namespace tandem::telemetry
