#include "common/rpc/server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/rpc/channel.h"
#include "tandem/v1/generation.grpc.pb.h"

namespace tandem::rpc {
namespace {

class Echo : public v1::Generation::CallbackService {
 public:
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    response->set_text(request->model());
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

class ServerTest : public ::testing::Test {
 protected:
  void Start(const Address& address, ServerOptions options = {}) {
    auto listener = Listener::Bind(address);
    ASSERT_TRUE(listener.ok()) << listener.status();
    auto server = RpcServer::Start(options, *std::move(listener), {&echo_}, health_, {.calls = &calls_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  grpc::Status Call(
      const std::string& text, std::string* answer = nullptr,
      const std::function<void(grpc::ClientContext&)>& prepare = [](grpc::ClientContext&) {}) {
    auto stub = v1::Generation::NewStub(NewChannel(server_->address()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    prepare(context);
    v1::DetokenizeRequest request;
    request.set_model(text);
    v1::DetokenizeResponse response;
    const grpc::Status status = stub->Detokenize(&context, request, &response);
    if (answer != nullptr) *answer = response.text();
    return status;
  }

  Echo echo_;
  telemetry::Health health_{{"tandem.v1.Generation"}};
  telemetry::Metrics metrics_{"test"};
  CallMetrics calls_{metrics_,
                     {{"/tandem.v1.Generation/Detokenize", {grpc::StatusCode::CANCELLED}},
                      {"/tandem.v1.Generation/Generate", {grpc::StatusCode::UNIMPLEMENTED}}}};
  std::unique_ptr<RpcServer> server_;
};

TEST_F(ServerTest, ServesOverTcpAndUnixSockets) {
  for (const Address& address :
       {Address{"127.0.0.1", 0, ""},
        Address{"", 0, ::testing::TempDir() + "/server" + std::to_string(getpid())}}) {
    Start(address);
    std::string answer;
    const grpc::Status status = Call("hello", &answer);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(answer, "hello");
    server_->Shutdown(absl::ZeroDuration());
  }
}

TEST_F(ServerTest, RefusesMessagesAndCompressionBeyondItsLimits) {
  Start({"127.0.0.1", 0, ""});
  EXPECT_EQ(Call(std::string(5 << 20, 'x')).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Call(std::string(100000, 'x'), nullptr,
                 [](grpc::ClientContext& c) { c.set_compression_algorithm(GRPC_COMPRESS_GZIP); })
                .error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_FALSE(Call("x", nullptr, [](grpc::ClientContext& c) {
                 c.AddMetadata("big", std::string(17 << 10, 'x'));
               }).ok());
  EXPECT_TRUE(Call("still there").ok());
}

TEST_F(ServerTest, TimesCallsByMethodAndCode) {
  Start({"127.0.0.1", 0, ""});
  const auto count = [&](const std::string& code, const std::string& method) {
    const std::string line =
        "tandem_rpc_server_duration_seconds_count{code=\"" + code + "\",method=\"" + method + "\"} ";
    const std::string text = metrics_.Scrape();
    const size_t at = text.find(line);
    return at == std::string::npos ? -1 : std::stoi(text.substr(at + line.size()));
  };
  EXPECT_EQ(count("OK", "Detokenize"), 0);
  EXPECT_TRUE(Call("x").ok());
  EXPECT_TRUE(Call("y").ok());
  EXPECT_EQ(count("OK", "Detokenize"), 2);

  const auto stub = v1::Generation::NewStub(NewChannel(server_->address()));
  grpc::ClientContext generate, list;
  v1::GenerateResponse part;
  EXPECT_FALSE(stub->Generate(&generate, v1::GenerateRequest())->Read(&part));
  v1::ListModelsResponse models;
  EXPECT_EQ(stub->ListModels(&list, {}, &models).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(count("UNIMPLEMENTED", "Generate"), 1);
  EXPECT_EQ(count("other", "other"), 1);
}

TEST_F(ServerTest, CountsItsConnections) {
  Start({"127.0.0.1", 0, ""});
  EXPECT_EQ(server_->num_connections(), 0);
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs;
  for (int i = 1; i <= 3; ++i) {
    stubs.push_back(v1::Generation::NewStub(NewChannel(server_->address())));
    grpc::ClientContext context;
    v1::DetokenizeResponse response;
    EXPECT_TRUE(stubs.back()->Detokenize(&context, {}, &response).ok());
    EXPECT_EQ(server_->num_connections(), i);
  }
}

TEST_F(ServerTest, ShutdownRefusesNewConnections) {
  Start({"127.0.0.1", 0, ""});
  EXPECT_TRUE(Call("x").ok());
  server_->Shutdown(absl::ZeroDuration());
  const Address address = server_->address();
  EXPECT_TRUE(Listener::Bind(address).ok()) << "the port is free again";
}

TEST(MemoryLimit, IsPositive) { EXPECT_GT(MemoryLimitBytes(), 0); }

}  // namespace
}  // namespace tandem::rpc
