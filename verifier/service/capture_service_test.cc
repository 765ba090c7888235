// Capture streams over a real server and client, with a fake model.
#include "verifier/service/capture_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <memory>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/protocol_version.h"
#include "common/rpc/server.h"
#include "verifier/engine/fake_model.h"

namespace tandem::verifier {
namespace {

using testing::FakeModel;
using ::testing::HasSubstr;

class Trainer {
 public:
  explicit Trainer(const Address& address)
      : channel_(rpc::NewChannel(address)), stub_(v1::Capture::NewStub(channel_)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    stream_ = stub_->Capture(&context_);
  }
  ~Trainer() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  bool SendHello(const std::function<void(v1::CaptureHello&)>& change = [](v1::CaptureHello&) {}) {
    v1::CaptureRequest request;
    v1::CaptureHello& hello = *request.mutable_hello();
    hello.mutable_protocol()->set_major(rpc::kProtocolMajor);
    hello.set_sampling_version(rpc::kSamplingVersion);
    hello.add_layers(0);
    hello.add_layers(1);
    hello.set_row_type(v1::ROW_TYPE_F32);
    change(hello);
    return stream_->Write(request);
  }
  bool SendText(
      uint64_t id, const std::vector<int32_t>& tokens, int max_tokens,
      const std::function<void(v1::CaptureText&)>& change = [](v1::CaptureText&) {}) {
    v1::CaptureRequest request;
    v1::CaptureText& text = *request.mutable_text();
    text.set_id(id);
    text.mutable_token_ids()->Add(tokens.begin(), tokens.end());
    text.set_max_tokens(max_tokens);
    text.set_top_p(1);
    text.set_rows(true);
    change(text);
    return stream_->Write(request);
  }
  bool Send(const v1::CaptureRequest& request) { return stream_->Write(request); }
  bool Read(v1::CaptureResponse* response) { return stream_->Read(response); }
  grpc::Status Finish() {
    v1::CaptureResponse response;
    while (stream_->Read(&response)) {
    }
    finished_ = true;
    return stream_->Finish();
  }
  void HalfClose() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Capture::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::CaptureRequest, v1::CaptureResponse>> stream_;
  bool finished_ = false;
};

class CaptureServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto listener = rpc::Listener::Bind({"127.0.0.1", 0, ""});
    ASSERT_TRUE(listener.ok()) << listener.status();
    auto server = rpc::RpcServer::Start({}, *std::move(listener), {&service_}, health_, {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    service_.Stop();
    if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  }
  void Open() {
    auto engine =
        CaptureEngine::Create({.kv_bytes = 64 * model_.kv_layout().block_bytes, .max_texts = 4}, model_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    CaptureIdentity identity;
    identity.run.model_fingerprint = "f00d";
    identity.run.vocab_size = FakeModel::kVocab;
    identity.hidden_size = FakeModel::kHidden;
    identity.num_layers = 2;
    service_.Open(identity, *engine_);
  }
  std::unique_ptr<Trainer> Connected() {
    auto trainer = std::make_unique<Trainer>(server_->address());
    EXPECT_TRUE(trainer->SendHello());
    v1::CaptureResponse response;
    EXPECT_TRUE(trainer->Read(&response));
    EXPECT_TRUE(response.has_hello());
    return trainer;
  }
  std::string ErrorOf(const std::function<void(Trainer&)>& send, grpc::StatusCode code) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    for (;;) {
      Trainer trainer(server_->address());
      send(trainer);
      const grpc::Status status = trainer.Finish();
      // A client knows of its stream's end before the service has let it go: then the next one comes again.
      if (status.error_code() != code && status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED &&
          absl::Now() < deadline)
        continue;
      EXPECT_EQ(status.error_code(), code) << status.error_message();
      return status.error_message();
    }
  }

  telemetry::Logger log_{{.service = "tandem-test", .level = "error"}};
  telemetry::Health health_{{"tandem.v1.Capture"}};
  FakeModel model_{32, 8};
  std::unique_ptr<CaptureEngine> engine_;
  CaptureService service_{log_};
  std::unique_ptr<rpc::RpcServer> server_;
};

TEST_F(CaptureServiceTest, AnswersWithRowsAndContinuations) {
  Open();
  Trainer trainer(server_->address());
  ASSERT_TRUE(trainer.SendHello());
  v1::CaptureResponse response;
  ASSERT_TRUE(trainer.Read(&response));
  EXPECT_EQ(response.hello().model_fingerprint(), "f00d");
  EXPECT_EQ(response.hello().max_text_length(), 512u);
  EXPECT_EQ(response.hello().max_texts(), 4u);
  ASSERT_TRUE(trainer.SendText(7, {1, 2, 3}, 5));
  ASSERT_TRUE(trainer.SendText(8, {4, 5}, 0));
  trainer.HalfClose();
  std::map<uint64_t, std::string> rows;
  std::map<uint64_t, int> tokens, done;
  while (trainer.Read(&response)) {
    const v1::CapturedPiece& piece = response.piece();
    EXPECT_EQ(piece.rows().size(), piece.num_rows() * 2 * FakeModel::kHidden * sizeof(float));
    rows[piece.id()] += piece.rows();
    tokens[piece.id()] += piece.token_ids_size();
    done[piece.id()] += piece.done();
  }
  EXPECT_TRUE(trainer.Finish().ok());
  EXPECT_EQ(tokens, (std::map<uint64_t, int>{{7, 5}, {8, 0}}));
  EXPECT_EQ(done, (std::map<uint64_t, int>{{7, 1}, {8, 1}}));
  const size_t row = 2 * FakeModel::kHidden * sizeof(float);
  EXPECT_EQ(rows[7].size(), 7 * row);
  EXPECT_EQ(rows[8].size(), 2 * row);
}

TEST_F(CaptureServiceTest, IsNotThereBeforeTheModelIs) {
  EXPECT_EQ(ErrorOf([](Trainer& t) { t.SendHello(); }, grpc::StatusCode::UNAVAILABLE),
            "verifier is starting");
}

TEST_F(CaptureServiceTest, TakesOneStreamAtATime) {
  Open();
  auto first = Connected();
  EXPECT_THAT(ErrorOf([](Trainer& t) { t.SendHello(); }, grpc::StatusCode::RESOURCE_EXHAUSTED),
              HasSubstr("another Capture stream"));
  // What the first one left unfinished does not hold up the next.
  ASSERT_TRUE(first->SendText(1, {1, 2}, 400));
  first->Cancel();
  EXPECT_EQ(first->Finish().error_code(), grpc::StatusCode::CANCELLED);
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  for (;;) {
    Trainer next(server_->address());
    next.SendHello();
    v1::CaptureResponse response;
    if (next.Read(&response)) {
      ASSERT_TRUE(next.SendText(1, {1, 2}, 3));
      next.HalfClose();
      int tokens = 0;
      while (next.Read(&response)) tokens += response.piece().token_ids_size();
      EXPECT_EQ(tokens, 3);
      EXPECT_TRUE(next.Finish().ok());
      break;
    }
    ASSERT_LT(absl::Now(), deadline) << next.Finish().error_message();
  }
}

TEST_F(CaptureServiceTest, NamesWhatIsWrong) {
  Open();
  const auto hello = [&](const std::function<void(v1::CaptureHello&)>& change, grpc::StatusCode code) {
    return ErrorOf([&](Trainer& t) { t.SendHello(change); }, code);
  };
  constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  EXPECT_THAT(
      hello([](auto& h) { h.mutable_protocol()->set_major(9); }, grpc::StatusCode::FAILED_PRECONDITION),
      HasSubstr("hello.protocol"));
  EXPECT_THAT(hello([](auto& h) { h.set_sampling_version(9); }, grpc::StatusCode::FAILED_PRECONDITION),
              HasSubstr("hello.sampling_version"));
  EXPECT_THAT(hello([](auto& h) { h.set_row_type(v1::ROW_TYPE_UNSPECIFIED); }, kInvalid),
              HasSubstr("hello.row_type"));
  EXPECT_THAT(hello([](auto& h) { h.clear_layers(); }, kInvalid), HasSubstr("hello.layers"));
  EXPECT_THAT(hello([](auto& h) { h.add_layers(INT32_MAX); }, kInvalid), HasSubstr("hello.layers[2]"));
  EXPECT_THAT(ErrorOf([](Trainer& t) { t.SendText(1, {1}, 1); }, kInvalid), HasSubstr("before the hello"));
  EXPECT_THAT(ErrorOf([](Trainer& t) { t.Send({}); }, kInvalid), HasSubstr("neither hello nor text"));
  EXPECT_THAT(ErrorOf(
                  [](Trainer& t) {
                    t.SendHello();
                    t.SendHello();
                  },
                  kInvalid),
              HasSubstr("second hello"));
  const auto text = [&](
                        const std::vector<int32_t>& tokens, uint32_t max_tokens,
                        const std::function<void(v1::CaptureText&)>& change = [](v1::CaptureText&) {}) {
    return ErrorOf(
        [&](Trainer& t) {
          t.SendHello();
          t.SendText(1, tokens, 0, [&](v1::CaptureText& message) {
            message.set_max_tokens(max_tokens);
            change(message);
          });
        },
        kInvalid);
  };
  EXPECT_THAT(text({}, 1), HasSubstr("text.token_ids' count must be in 1..512, got 0"));
  EXPECT_THAT(text({1, FakeModel::kVocab}, 1), HasSubstr("text.token_ids[1]"));
  EXPECT_THAT(text({1}, UINT32_MAX), HasSubstr("text.max_tokens"));
  EXPECT_THAT(text({1}, 512), HasSubstr("text.max_tokens"));
  EXPECT_THAT(text({1}, 1, [](auto& m) { m.set_top_k(UINT32_MAX); }), HasSubstr("text.top_k"));
  EXPECT_THAT(text({1}, 1, [](auto& m) { m.set_temperature(NAN); }), HasSubstr("temperature"));
  EXPECT_THAT(text({1}, 1, [](auto& m) { m.add_stop_token_ids(-1); }), HasSubstr("text.stop_token_ids[0]"));
}

TEST_F(CaptureServiceTest, AFloodOfTextsEndsTheStream) {
  Open();
  const std::string error = ErrorOf(
      [](Trainer& t) {
        t.SendHello();
        for (uint64_t id = 1; id < 200 && t.SendText(id, {1, 2, 3}, 400); ++id) {
        }
      },
      grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(error, HasSubstr("4 texts are unfinished, the limit"));
}

TEST_F(CaptureServiceTest, StopEndsTheStream) {
  Open();
  auto trainer = Connected();
  ASSERT_TRUE(trainer->SendText(1, {1, 2}, 400));
  service_.Stop();
  EXPECT_EQ(trainer->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace tandem::verifier
