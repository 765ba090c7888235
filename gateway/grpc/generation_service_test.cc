#include "gateway/grpc/generation_service.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/synchronization/notification.h"
#include "gateway/errors.h"
#include "gateway/grpc/messages.h"
#include "gateway/grpc/unknown_methods.h"
#include "google/rpc/error_details.pb.h"

namespace tandem::gateway {
namespace {

using testing::ElementsAre;

// Hands the sink to the test, which plays the batcher.
class FakeGenerator : public Generator {
 public:
  class FakeGeneration : public Generation {
   public:
    explicit FakeGeneration(FakeGenerator& owner) : owner_(owner) {}
    ~FakeGeneration() override {
      const std::lock_guard lock(owner_.mutex);
      ++owner_.ended;
      owner_.changed.notify_all();
    }
    const std::string& request_id() const override { return id_; }

   private:
    FakeGenerator& owner_;
    std::string id_ = "r1";
  };

  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request, EventSink& sink) override {
    before();
    if (!start_error.ok()) return start_error;
    last = std::move(request);
    if (on_start) on_start(sink);
    const std::lock_guard lock(mutex);
    this->sink = &sink;
    changed.notify_all();
    return std::make_unique<FakeGeneration>(*this);
  }
  absl::StatusOr<std::vector<int32_t>> Tokenize(const TokenizeRequest& request) override {
    before();
    last_flags = request.chat_template_kwargs;
    if (request.messages) return std::vector<int32_t>{static_cast<int32_t>(request.messages->size())};
    return std::vector<int32_t>(request.text->begin(), request.text->end());
  }
  absl::StatusOr<std::string> Detokenize(const std::string&, const char* param,
                                         const std::vector<int64_t>& ids) override {
    if (ids.empty()) return error::Required(param);
    return std::string(ids.begin(), ids.end());
  }
  ModelInfo model_info() const override { return {"tiny", {"default"}, 512, 260, "fp", absl::UnixEpoch()}; }
  bool ready() const override { return true; }

  EventSink& WaitForSink() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return sink != nullptr; });
    return *sink;
  }
  void WaitForEnd() {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return ended > 0; });
  }

  std::function<void()> before = [] {};  // Start and Tokenize; may throw
  absl::Status start_error;
  std::function<void(EventSink&)> on_start;
  GenerationRequest last;
  std::map<std::string, bool> last_flags;
  std::mutex mutex;
  std::condition_variable changed;
  EventSink* sink = nullptr;
  int ended = 0;
};

struct CountingObserver : DoorObserver {
  void OnUnknownFields(int count) override { unknown_fields += count; }
  void OnWriteStall() override { ++write_stalls; }
  void OnRefused(const char*, const absl::Status& why) override {
    ++refused;
    const std::lock_guard lock(mutex);
    last = why;
  }
  ErrorReason last_reason() {
    const std::lock_guard lock(mutex);
    return ReasonOf(last);
  }
  std::atomic<int> unknown_fields = 0, write_stalls = 0, refused = 0;
  std::mutex mutex;
  absl::Status last;
};

class GenerationServiceTest : public testing::Test {
 protected:
  GenerationServiceTest()
      : service_(generator_, observer_, {.write_stall = kStall, .stream_buffer_bytes = kBufferBytes}) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    builder.RegisterCallbackGenericService(&unknown_methods_);
    builder.SetMaxReceiveMessageSize(static_cast<int>(2 * limits::kGrpcReceiveBytes));
    server_ = builder.BuildAndStart();
    address_ = fmt::format("127.0.0.1:{}", port);
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = v1::Generation::NewStub(channel_);
  }
  ~GenerationServiceTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  static v1::GenerateRequest TextRequest() {
    v1::GenerateRequest request;
    request.set_model("tiny");
    request.set_text("hello");
    return request;
  }

  static constexpr absl::Duration kStall = absl::Milliseconds(200);
  static constexpr int64_t kBufferBytes = 1 << 20;
  FakeGenerator generator_;
  CountingObserver observer_;
  UnknownMethods unknown_methods_{observer_};
  GenerationService service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

Delta MakeDelta(int choice, int first, const std::string& text, std::vector<int> ids) {
  Delta delta{choice, first, text, {}};
  for (const int id : ids) delta.tokens.push_back({id, false, "x", std::nullopt, {}});
  return delta;
}

TEST_F(GenerationServiceTest, StreamsStartedDeltasAndFinishedInOrderWithoutGaps) {
  generator_.on_start = [](EventSink& sink) {
    sink.OnStarted({"r1", 7, {5}, 2, "fp", "tiny"});
    sink.OnDelta(MakeDelta(0, 0, "ab", {1, 2}));
    sink.OnDelta(MakeDelta(0, 2, "c", {3}));
    sink.OnFinished({0, Finished::Reason::kLength, 5, 3, 0, 0, 0});
    sink.OnAllFinished();
  };
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, TextRequest());
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.started().seed(), 7u);
  EXPECT_EQ(response.started().prompt_tokens(), 5);
  std::string text;
  std::vector<int> ids;
  while (reader->Read(&response) && response.has_delta()) {
    EXPECT_EQ(response.delta().first_index(), static_cast<int>(ids.size()));
    text += response.delta().text();
    ids.insert(ids.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
  }
  EXPECT_EQ(text, "abc");
  EXPECT_THAT(ids, ElementsAre(1, 2, 3));
  EXPECT_EQ(response.finished().reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerationServiceTest, PassesEveryFieldOn) {
  generator_.on_start = [](EventSink& sink) { sink.OnAllFinished(); };
  v1::GenerateRequest request;
  request.set_model("tiny");
  auto* message = request.mutable_conversation()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  request.set_max_tokens(9);
  request.set_n(2);
  request.mutable_sampling()->set_temperature(0.5f);
  request.mutable_sampling()->set_seed(~uint64_t{0});
  (*request.mutable_sampling()->mutable_logit_bias())[3] = -1.5f;
  request.add_stop("x");
  request.set_num_logprobs(0);
  request.set_request_id("id-1");
  grpc::ClientContext context;
  context.AddMetadata("traceparent", "00-aa-bb-01");
  context.AddMetadata("tracestate", "a=1,b=2");
  const auto reader = stub_->Generate(&context, request);
  EXPECT_TRUE(reader->Finish().ok());
  const GenerationRequest& last = generator_.last;
  EXPECT_EQ(last.api, "grpc");
  EXPECT_EQ(last.messages->dump(), R"([{"role":"user","content":"hi"}])");
  EXPECT_EQ(last.max_tokens, 9);
  EXPECT_EQ(last.n, 2);
  EXPECT_EQ(last.temperature, 0.5);
  EXPECT_EQ(last.top_p, std::nullopt);
  EXPECT_EQ(last.seed, ~uint64_t{0});
  EXPECT_THAT(last.logit_bias, ElementsAre(std::pair<int64_t, double>(3, -1.5)));
  EXPECT_THAT(last.stop, ElementsAre("x"));
  EXPECT_EQ(last.num_logprobs, 0);
  EXPECT_EQ(last.request_id, "id-1");
  EXPECT_EQ(last.traceparent, "00-aa-bb-01");
  EXPECT_EQ(last.tracestate, "a=1,b=2");
}

TEST_F(GenerationServiceTest, ErrorsCarryDetails) {
  generator_.start_error = error::OutOfRange("temperature", "0..2", 3.5);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, TextRequest());
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "temperature must be in 0..2, got 3.5");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  ASSERT_EQ(details.details_size(), 2);
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  ASSERT_TRUE(details.details(1).UnpackTo(&bad_request));
  EXPECT_EQ(info.reason(), "VALIDATION");
  EXPECT_EQ(info.domain(), "tandem");
  EXPECT_EQ(bad_request.field_violations(0).field(), "temperature");
}

TEST_F(GenerationServiceTest, OverloadSaysWhenToComeBack) {
  generator_.start_error = error::QueueFull(256, absl::Seconds(2));
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, TextRequest());
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto& trailers = context.GetServerTrailingMetadata();
  ASSERT_EQ(trailers.count("grpc-retry-pushback-ms"), 1u);
  EXPECT_EQ(trailers.find("grpc-retry-pushback-ms")->second, "2000");
}

TEST_F(GenerationServiceTest, BytesThatAreNoMessageAreInvalidArgumentAndDisturbNobody) {
  std::string deep;  // 150 levels of field 2 (conversation), each holding the next
  for (int i = 0; i < 150; ++i) {
    std::string length;
    for (size_t n = deep.size(); true; n >>= 7) {
      length += static_cast<char>((n & 127) | (n > 127 ? 128 : 0));
      if (n <= 127) break;
    }
    deep = "\x12" + length + deep;
  }
  grpc::GenericStub stub(channel_);
  for (const std::string& bytes :
       {std::string("\xff\xff\xff"), std::string("\x0a\x7fshort"), std::string("\x0a\x02\xc3\x28")}) {
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    grpc::ClientContext context;
    absl::Notification done;
    grpc::Status result;
    stub.UnaryCall(&context, "/tandem.v1.Generation/Tokenize", grpc::StubOptions(), &request, &response,
                   [&](grpc::Status status) {
                     result = std::move(status);
                     done.Notify();
                   });
    done.WaitForNotification();
    EXPECT_EQ(result.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << testing::PrintToString(bytes);
    EXPECT_THAT(result.error_message(), testing::HasSubstr("tandem.v1.TokenizeRequest"));
  }
  const grpc::Slice slice(deep);
  v1::GenerateRequest message;
  EXPECT_TRUE(absl::IsInvalidArgument(ParseMessage(grpc::ByteBuffer(&slice, 1), message)) ||
              message.has_conversation());

  grpc::ClientContext context;
  v1::TokenizeRequest request;
  request.set_text("ab");
  v1::TokenizeResponse response;
  ASSERT_TRUE(stub_->Tokenize(&context, request, &response).ok());
  EXPECT_THAT(response.token_ids(), ElementsAre('a', 'b'));
  EXPECT_EQ(response.max_model_len(), 512);
}

TEST_F(GenerationServiceTest, ARequestWithoutInputIsRefusedByName) {
  v1::GenerateRequest request;
  request.set_model("tiny");
  grpc::ClientContext context;
  const grpc::Status status = stub_->Generate(&context, request)->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "input is required");
}

TEST_F(GenerationServiceTest, ACancelledStreamEndsItsGeneration) {
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, TextRequest());
  generator_.WaitForSink().OnStarted({"r1", 7, {5}, 0, "fp", "tiny"});
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(service_.open_streams(), 1);
  context.TryCancel();
  generator_.WaitForEnd();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GenerationServiceTest, AnErrorAfterTheStartEndsTheStreamBehindItsDeltas) {
  generator_.on_start = [](EventSink& sink) {
    sink.OnStarted({"r1", 7, {5}, 0, "fp", "tiny"});
    sink.OnDelta(MakeDelta(0, 0, "ab", {1, 2}));
    sink.OnError(error::BackendLost(2));
  };
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, TextRequest());
  v1::GenerateResponse response;
  int messages = 0;
  while (reader->Read(&response)) ++messages;
  EXPECT_EQ(messages, 2);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(GenerationServiceTest, NothingThatIsThrownLeavesTheDoor) {
  const std::vector<std::function<void()>> throws = {[] { throw std::bad_alloc(); },
                                                     [] { throw std::runtime_error("x"); }, [] { throw 7; }};
  for (const auto& thrown : throws) {
    generator_.before = thrown;
    grpc::ClientContext generate, tokenize;
    v1::GenerateRequest request = TextRequest();
    request.set_request_id("abc");
    v1::GenerateResponse part;
    auto stream = stub_->Generate(&generate, request);
    EXPECT_FALSE(stream->Read(&part));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
    EXPECT_EQ(status.error_message(), "internal error, request abc");
    v1::TokenizeRequest text;
    text.set_text("a");
    v1::TokenizeResponse ids;
    EXPECT_EQ(stub_->Tokenize(&tokenize, text, &ids).error_code(), grpc::StatusCode::INTERNAL);
  }
  EXPECT_EQ(observer_.refused, 6);
  generator_.before = [] {};
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  EXPECT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  server_->Shutdown();  // a client may know of a call's end before the server does; this waits for them all
  EXPECT_EQ(service_.open_streams(), 0);
}

TEST_F(GenerationServiceTest, TellsWhatItRefusesAndIgnores) {
  {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text(std::string(limits::kGrpcReceiveBytes + 1, 'x'));
    v1::TokenizeResponse ids;
    const grpc::Status status = stub_->Tokenize(&context, request, &ids);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
    EXPECT_EQ(status.error_message(), "body exceeds 4194304 bytes");
    EXPECT_EQ(observer_.last_reason(), ErrorReason::kTooLarge);
  }
  {
    grpc::ClientContext context;
    const grpc::Slice empty;
    grpc::ByteBuffer request(&empty, 1), response;
    grpc::GenericStub stub(channel_);
    absl::Notification done;
    grpc::Status status;
    stub.UnaryCall(&context, "/tandem.v1.Generation/Nothing", grpc::StubOptions(), &request, &response,
                   [&](grpc::Status ended) {
                     status = std::move(ended);
                     done.Notify();
                   });
    done.WaitForNotification();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_NE(status.error_message().find("/tandem.v1.Generation/Nothing"), std::string::npos);
    EXPECT_FALSE(status.error_details().empty());
    EXPECT_EQ(observer_.last_reason(), ErrorReason::kUnimplemented);
  }
  EXPECT_EQ(observer_.refused, 2);
  {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.mutable_conversation()
        ->add_messages()
        ->GetReflection()
        ->MutableUnknownFields(request.mutable_conversation()->mutable_messages(0))
        ->AddVarint(77, 1);
    request.GetReflection()->MutableUnknownFields(&request)->AddVarint(78, 1);
    v1::TokenizeResponse ids;
    EXPECT_TRUE(stub_->Tokenize(&context, request, &ids).ok());
    EXPECT_EQ(observer_.unknown_fields, 2);
  }
}

TEST_F(GenerationServiceTest, AClientThatDoesNotReadIsGivenUp) {
  // Windows that do not grow, so that the client's library does not read ahead for it.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 16 << 10);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = v1::Generation::NewStub(
      grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments));
  // With nothing more to come, by time; with much to come, by its size.
  for (const int deltas : {3, 200}) {
    observer_.write_stalls = 0;
    generator_.ended = 0;
    grpc::ClientContext context;
    auto stream = stub->Generate(&context, TextRequest());
    EventSink& sink = generator_.WaitForSink();
    Started started;
    started.prompt_tokens = {3};
    sink.OnStarted(started);
    for (int i = 0; i < deltas; ++i) sink.OnDelta(MakeDelta(0, i, std::string(128 << 10, 'x'), {1}));
    generator_.WaitForEnd();
    EXPECT_GE(observer_.write_stalls, 1);
    {
      const std::lock_guard lock(generator_.mutex);
      generator_.sink = nullptr;
    }
    v1::GenerateResponse part;
    while (stream->Read(&part)) {
    }
    EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  }
}

TEST_F(GenerationServiceTest, ListsModelsAndDetokenizes) {
  grpc::ClientContext context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  EXPECT_EQ(models.models(0).id(), "tiny");
  EXPECT_THAT(models.models(0).aliases(), ElementsAre("default"));

  grpc::ClientContext second;
  v1::DetokenizeRequest request;
  request.add_token_ids('h');
  v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(&second, request, &text).ok());
  EXPECT_EQ(text.text(), "h");
}

}  // namespace
}  // namespace tandem::gateway
