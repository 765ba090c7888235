#include "gateway/http/http_server.h"

#include "gateway/http/test_server.h"

namespace tandem::gateway::http {
namespace {

using ::testing::Test;

constexpr char kChat[] = R"({"model":"tiny","messages":[{"role":"user","content":"a"}]})";

TEST_F(HttpDoorTest, ChatAnswerHasAllFields) {
  StartServer();
  const std::string answer = Ask(Post("/v1/chat/completions", kChat));
  EXPECT_EQ(StatusOf(answer), 200);
  EXPECT_NE(answer.find("x-request-id: r1\r\n"), std::string::npos) << answer;
  EXPECT_NE(answer.find("x-tandem-seed: 42\r\n"), std::string::npos) << answer;
  EXPECT_EQ(
      BodyOf(answer),
      R"({"id":"chatcmpl-r1","object":"chat.completion","created":12,"model":"tiny","system_fingerprint":)"
      R"("fp","choices":[{"index":0,"message":{"role":"assistant","content":"Hi!","refusal":null},)"
      R"("logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,)"
      R"("total_tokens":5,"prompt_tokens_details":{"cached_tokens":2}}})");
}

TEST_F(HttpDoorTest, ChatLogprobsListTokensWithBytes) {
  StartServer();
  const std::string body = BodyOf(Ask(Post(
      "/v1/chat/completions",
      R"({"model":"tiny","logprobs":true,"top_logprobs":1,"messages":[{"role":"user","content":"a"}]})")));
  EXPECT_NE(
      body.find(R"("logprobs":{"content":[{"token":"Hi","logprob":-0.5,"bytes":[72,105],"top_logprobs":)"
                R"([{"token":"Hi","logprob":-0.5,"bytes":[72,105]}]},{"token":"!")"),
      std::string::npos)
      << body;
}

TEST_F(HttpDoorTest, CompletionLogprobsAreFourLists) {
  StartServer();
  const std::string body =
      BodyOf(Ask(Post("/v1/completions", R"({"model":"tiny","prompt":[1,2],"logprobs":1,"seed":-1})")));
  EXPECT_EQ(
      body,
      R"({"id":"cmpl-r1","object":"text_completion","created":12,"model":"tiny","system_fingerprint":"fp",)"
      R"("choices":[{"index":0,"text":"Hi!","logprobs":{"tokens":["Hi","!"],"token_logprobs":[-0.5,-0.5],)"
      R"("top_logprobs":[{"Hi":-0.5},{"!":-0.5}],"text_offset":[0,2]},"finish_reason":"stop"}],"usage":)"
      R"({"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":)"
      R"({"cached_tokens":2}}})");
  EXPECT_EQ(generator_.last().seed, ~uint64_t{0});
  EXPECT_EQ(generator_.last().default_max_tokens, 16);
}

TEST_F(HttpDoorTest, PromptListTimesNGivesThatManyChoices) {
  StartServer();
  const std::string body =
      BodyOf(Ask(Post("/v1/completions", R"({"model":"tiny","prompt":["a",[1,2]],"n":2,"odd":1})")));
  for (int i = 0; i < 4; ++i)
    EXPECT_NE(body.find(fmt::format("{{\"index\":{},\"text\":\"Hi!\"", i)), std::string::npos) << body;
  EXPECT_NE(body.find(R"("prompt_tokens":6,"completion_tokens":8,"total_tokens":14)"), std::string::npos);
  EXPECT_TRUE(generator_.last().prompt_list);
  EXPECT_EQ(observer_.unknown_fields, 1);
}

TEST_F(HttpDoorTest, TextPartsOfAMessageAreJoined) {
  StartServer();
  EXPECT_EQ(
      StatusOf(Ask(Post("/v1/chat/completions",
                        R"({"model":"tiny","messages":[{"role":"user","content":[{"type":"text","text":"a"},)"
                        R"({"type":"text","text":"b"}]}]})"))),
      200);
  EXPECT_EQ(generator_.last().messages->dump(), R"([{"role":"user","content":"a\nb"}])");
}

TEST_F(HttpDoorTest, SmallRoutesAnswer) {
  StartServer();
  EXPECT_EQ(BodyOf(Ask(Get("/health"))), R"({"status":"SERVING"})");
  EXPECT_EQ(StatusOf(Ask(Get("/ready"))), 200);
  EXPECT_EQ(BodyOf(Ask(Get("/version"))), "{\"version\":\"" TANDEM_VERSION "\"}");
  EXPECT_NE(BodyOf(Ask(Get("/v1/models"))).find(R"("id":"org/tiny")"), std::string::npos);
  EXPECT_EQ(StatusOf(Ask(Get("/v1/models/org%2Ftiny"))), 200);
  EXPECT_EQ(StatusOf(Ask(Get("/v1/models/other"))), 404);
  EXPECT_EQ(BodyOf(Ask(Post("/tokenize", R"({"model":"tiny","prompt":"abcd"})"))),
            R"({"count":3,"max_model_len":4096,"tokens":[1,2,4]})");
  EXPECT_EQ(BodyOf(Ask(Post("/detokenize", R"({"model":"tiny","tokens":[1]})"))), R"({"prompt":"a\"b"})");
  generator_.is_ready = false;
  EXPECT_EQ(StatusOf(Ask(Get("/ready"))), 503);
}

TEST_F(HttpDoorTest, ErrorsOfTheCoreKeepTheirHeaders) {
  StartServer();
  generator_.refuse = error::QueueFull(256, absl::Seconds(2));
  std::string answer = Ask(Post("/v1/chat/completions", kChat));
  EXPECT_EQ(StatusOf(answer), 429);
  EXPECT_NE(answer.find("Retry-After: 2\r\n"), std::string::npos);
  EXPECT_EQ(BodyOf(answer),
            R"({"error":{"message":"queue is full (256), retry in 2 s","type":"rate_limit_error",)"
            R"("param":null,"code":"rate_limit_exceeded"}})");
  generator_.refuse = error::InternalError("r1");
  answer = Ask(Post("/v1/chat/completions", kChat));
  EXPECT_EQ(StatusOf(answer), 500);
  EXPECT_NE(answer.find("x-should-retry: false\r\n"), std::string::npos);
}

TEST_F(HttpDoorTest, NothingThatIsThrownLeavesTheDoor) {
  StartServer();
  const std::vector<std::function<void()>> throws = {[] { throw std::bad_alloc(); },
                                                     [] { throw std::runtime_error("x"); }, [] { throw 7; }};
  for (const auto& thrown : throws) {
    generator_.before = thrown;
    for (const std::string& request :
         {Post("/v1/chat/completions", kChat), Post("/tokenize", R"({"model":"tiny","prompt":"a"})")}) {
      const std::string answer = Ask(request);
      EXPECT_EQ(StatusOf(answer), 500);
      EXPECT_NE(answer.find("x-should-retry: false\r\n"), std::string::npos) << answer;
      EXPECT_NE(answer.find("internal error, request r1"), std::string::npos) << answer;
    }
    generator_.before = [] {};
    EXPECT_EQ(StatusOf(Ask(Post("/v1/chat/completions", kChat))), 200);
  }
  EXPECT_EQ(observer_.refused, 6);
  EXPECT_TRUE(observer_.AwaitNoStreams());
  EXPECT_EQ(server_->open_streams(), 0);
}

TEST_F(HttpDoorTest, PipelinedRequestsAreAnsweredInOrder) {
  StartServer();
  RawClient client(server_->address());
  client.Send(Get("/version") + Post("/v1/chat/completions", kChat) + Get("/health"));
  EXPECT_NE(client.ReadAnswer().find("version"), std::string::npos);
  EXPECT_NE(client.ReadAnswer().find("chat.completion"), std::string::npos);
  EXPECT_NE(client.ReadAnswer().find("SERVING"), std::string::npos);
  client.Send(Get("/version"));
  EXPECT_EQ(StatusOf(client.ReadAnswer()), 200);
}

TEST_F(HttpDoorTest, ExpectContinueIsAnsweredBeforeTheBody) {
  StartServer();
  RawClient client(server_->address());
  const std::string request = Post("/v1/chat/completions", kChat, "Expect: 100-continue\r\n");
  const size_t head = request.find("\r\n\r\n") + 4;
  client.Send(request.substr(0, head));
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send(request.substr(head));
  EXPECT_EQ(StatusOf(client.ReadAnswer()), 200);
}

TEST_F(HttpDoorTest, KeysAreCheckedBeforeRoutesButNotForHealth) {
  HttpServer::Options options;
  options.authorize = [](std::string_view given) {
    return given == "Bearer k" ? absl::OkStatus() : error::InvalidApiKey();
  };
  StartServer(options);
  EXPECT_EQ(StatusOf(Ask(Get("/nothing"))), 401);
  EXPECT_EQ(StatusOf(Ask(Get("/health"))), 200);
  EXPECT_EQ(StatusOf(Ask(Post("/v1/chat/completions", kChat, "Authorization: Bearer k\r\n"))), 200);
  EXPECT_EQ(StatusOf(Ask(Post("/v1/chat/completions", kChat,
                              "Authorization: Bearer k\r\nAuthorization: Bearer k\r\n"))),
            401);
}

TEST_F(HttpDoorTest, ShutdownLetsRunningAnswersFinish) {
  generator_.by_hand = true;
  StartServer();
  RawClient idle(server_->address()), client(server_->address());
  client.Send(Post("/v1/chat/completions", kChat));
  EventSink& sink = generator_.AwaitSink();
  server_->StopAccepting();
  EXPECT_EQ(idle.ReadAll(), "");
  sink.OnStarted(FakeGenerator::StartedOf(generator_.last()));
  sink.OnFinished({.choice = 0});
  sink.OnAllFinished();
  EXPECT_EQ(StatusOf(client.ReadAll()), 200);
  server_->Shutdown(absl::Seconds(10));
  EXPECT_EQ(server_->open_streams(), 0);
}

TEST_F(HttpDoorTest, ShutdownWithoutPatienceCancels) {
  generator_.by_hand = true;
  StartServer();
  RawClient client(server_->address());
  client.Send(Post("/v1/chat/completions", kChat));
  generator_.AwaitSink();
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_TRUE(generator_.AwaitCancelled());
}

TEST_F(HttpDoorTest, RefusesAnAddressBeyondThisMachine) {
  const auto server = HttpServer::Start({.listen = {"0.0.0.0", 0, ""}}, generator_, observer_);
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::gateway::http
