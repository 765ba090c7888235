// Server-sent events, and clients that leave or stop reading.
#include "gateway/http/test_server.h"

namespace tandem::gateway::http {
namespace {

constexpr char kStream[] = R"({"model":"tiny","stream":true,"messages":[{"role":"user","content":"a"}]})";
constexpr char kHead[] =
    R"(data: {"id":"chatcmpl-r1","object":"chat.completion.chunk","created":12,"model":"tiny",)"
    R"("system_fingerprint":"fp","choices":[)";

TEST_F(HttpDoorTest, StreamIsByteForByteAsPromised) {
  generator_.by_hand = true;
  StartServer();
  RawClient client(server_->address());
  client.Send(Post("/v1/chat/completions",
                   R"({"model":"tiny","stream":true,"stream_options":{"include_usage":true},)"
                   R"("messages":[{"role":"user","content":"a"}]})"));
  EventSink& sink = generator_.AwaitSink();
  sink.OnStarted(FakeGenerator::StartedOf(generator_.last()));
  std::string answer = client.ReadUntil("\"role\"");
  sink.OnDelta({0, 0, "Hé\n", {}});
  sink.OnFinished({.choice = 0, .reason = Finished::Reason::kLength, .prompt_tokens = 3, .output_tokens = 1});
  sink.OnAllFinished();
  answer += client.ReadUntil("0\r\n\r\n");
  EXPECT_NE(answer.find("Content-Type: text/event-stream; charset=utf-8\r\n"), std::string::npos);
  EXPECT_NE(answer.find("Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"), std::string::npos);
  EXPECT_NE(answer.find("x-tandem-seed: 42\r\n"), std::string::npos);
  const std::string head = kHead;
  EXPECT_EQ(
      ChunkedBodyOf(answer),
      head +
          R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],)" +
          "\"usage\":null}\n\n" + head +
          R"({"index":0,"delta":{"content":"Hé\n"},"logprobs":null,"finish_reason":null}],)" +
          "\"usage\":null}\n\n" + head +
          R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],)" + "\"usage\":null}\n\n" +
          head +
          R"(],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4,"prompt_tokens_details":)" +
          "{\"cached_tokens\":2}}}\n\ndata: [DONE]\n\n");
  client.Send(Get("/health"));
  EXPECT_EQ(StatusOf(client.ReadAnswer()), 200) << "the connection stays";
}

TEST_F(HttpDoorTest, DraftedTextIsMarkedAndMeasuredWhereAskedFor) {
  generator_.by_hand = true;
  StartServer();
  RawClient client(server_->address());
  client.Send(
      Post("/v1/chat/completions",
           R"({"model":"tiny","stream":true,"stream_options":{"include_usage":true,"include_drafts":true},)"
           R"("messages":[{"role":"user","content":"a"}]})"));
  EventSink& sink = generator_.AwaitSink();
  sink.OnStarted(FakeGenerator::StartedOf(generator_.last()));
  std::string answer = client.ReadUntil("\"role\"");
  sink.OnDelta(
      {.choice = 0, .first_index = 0, .text = "abcd", .tokens = {}, .drafted_spans = {{0, 1}, {2, 4}}});
  sink.OnFinished({.choice = 0,
                   .reason = Finished::Reason::kLength,
                   .prompt_tokens = 3,
                   .output_tokens = 4,
                   .drafted = 9,
                   .checked = 6,
                   .accepted = 3,
                   .rounds_by_accepted = {1, 1, 1, 0}});
  sink.OnAllFinished();
  answer += client.ReadUntil("0\r\n\r\n");
  EXPECT_NE(answer.find(R"({"index":0,"delta":{"content":"abcd"},"logprobs":null,)"
                        R"("drafted_spans":[[0,1],[2,4]],"finish_reason":null}],"usage":null})"),
            std::string::npos)
      << answer;
  EXPECT_NE(answer.find(R"("metrics":{"speculative_decoding":{"mean_acceptance_length":2,)"
                        R"("draft_acceptance_rate":0.5,"acceptance_histogram":[1,1,1,0],"num_spec_steps":3,)"
                        R"("num_accepted_draft_tokens":3,"num_draft_tokens":6,"num_spec_tokens":3,)"
                        R"("num_proposed_tokens":9}}})"),
            std::string::npos)
      << answer;
}

TEST_F(HttpDoorTest, MetricsOfEveryAnswerAreTheOperatorsChoice) {
  StartServer({.speculation_metrics = true, .prediction_tokens = true});
  const std::string answer = Ask(Post("/v1/completions", R"({"model":"tiny","prompt":"a"})"));
  EXPECT_NE(answer.find(R"("completion_tokens_details":{"accepted_prediction_tokens":0,)"
                        R"("rejected_prediction_tokens":0}})"),
            std::string::npos)
      << answer;
  EXPECT_NE(answer.find(R"("metrics":{"speculative_decoding":{"mean_acceptance_length":null,)"
                        R"("draft_acceptance_rate":null,"acceptance_histogram":[],"num_spec_steps":0,)"),
            std::string::npos)
      << answer;
}

TEST_F(HttpDoorTest, StatusLineWaitsForAdmission) {
  generator_.by_hand = true;
  StartServer();
  RawClient client(server_->address());
  client.Send(Post("/v1/chat/completions", kStream));
  generator_.AwaitSink().OnError(error::KvFull(absl::Seconds(1)));
  EXPECT_EQ(StatusOf(client.ReadAnswer()), 429);
  EXPECT_TRUE(generator_.AwaitCancelled());
}

TEST_F(HttpDoorTest, LaterErrorIsAnEventAndEndsTheConnection) {
  generator_.by_hand = true;
  StartServer();
  RawClient client(server_->address());
  client.Send(Post("/v1/chat/completions", kStream));
  EventSink& sink = generator_.AwaitSink();
  sink.OnStarted(FakeGenerator::StartedOf(generator_.last()));
  sink.OnError(error::BackendLost(37));
  const std::string answer = client.ReadAll();
  EXPECT_TRUE(client.ended());
  const std::string body = ChunkedBodyOf(answer);
  EXPECT_TRUE(body.ends_with(
      "data: {\"error\":{\"message\":\"backend lost after 37 tokens\",\"type\":\"server_error\","
      "\"param\":null,\"code\":\"unavailable\"}}\n\n"))
      << body;
  EXPECT_EQ(body.find("[DONE]"), std::string::npos);
}

TEST_F(HttpDoorTest, SilenceIsFilledWithPings) {
  generator_.by_hand = true;
  StartServer({.ping_interval = absl::Milliseconds(50)});
  RawClient client(server_->address());
  client.Send(Post("/v1/chat/completions", kStream));
  EventSink& sink = generator_.AwaitSink();
  sink.OnStarted(FakeGenerator::StartedOf(generator_.last()));
  EXPECT_NE(client.ReadUntil(": ping\n\n").find(": ping\n\n"), std::string::npos);
}

TEST_F(HttpDoorTest, LeavingClientCancelsStreamedAndWholeAnswers) {
  generator_.by_hand = true;
  StartServer();
  for (const bool stream : {false, true}) {
    RawClient client(server_->address());
    client.Send(
        Post("/v1/completions", fmt::format(R"({{"model":"tiny","prompt":"a","stream":{}}})", stream)));
    generator_.AwaitSink();
    EXPECT_EQ(server_->open_streams(), 1);
    client.Close();
    EXPECT_TRUE(generator_.AwaitCancelled()) << stream;
  }
}

TEST_F(HttpDoorTest, StalledReaderIsEndedAndOthersGoOn) {
  generator_.by_hand = true;
  StartServer({.write_stall = absl::Milliseconds(200), .socket_send_bytes = 8 << 10});
  RawClient client(server_->address(), 4 << 10);
  client.Send(Post("/v1/chat/completions", kStream));
  EventSink& sink = generator_.AwaitSink();
  sink.OnStarted(FakeGenerator::StartedOf(generator_.last()));
  for (int i = 0; i < 64; ++i) sink.OnDelta({0, i, std::string(16 << 10, 'x'), {}});
  EXPECT_TRUE(generator_.AwaitCancelled());
  EXPECT_EQ(observer_.write_stalls, 1);
  EXPECT_EQ(StatusOf(Ask(Get("/health"))), 200);
}

TEST_F(HttpDoorTest, BufferOfASlowReaderIsBounded) {
  generator_.by_hand = true;
  StartServer({.stream_buffer_bytes = 256 << 10, .socket_send_bytes = 8 << 10});
  RawClient client(server_->address(), 4 << 10);
  client.Send(Post("/v1/chat/completions", kStream));
  EventSink& sink = generator_.AwaitSink();
  sink.OnStarted(FakeGenerator::StartedOf(generator_.last()));
  // Far below the stall limit: what ends it is the bound. The server takes up to one piece in between.
  for (int i = 0; i < 1024; ++i) sink.OnDelta({0, i, std::string(16 << 10, 'x'), {}});
  client.ReadAll();
  EXPECT_TRUE(client.ended());
  EXPECT_TRUE(generator_.AwaitCancelled());
}

}  // namespace
}  // namespace tandem::gateway::http
