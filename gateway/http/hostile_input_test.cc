// Every input here is refused with its own error, or cut, and the next good request succeeds.
#include "gateway/http/test_server.h"

namespace tandem::gateway::http {
namespace {

class HostileInput : public HttpDoorTest {
 protected:
  void TearDown() override {
    if (server_ != nullptr) ExpectGoodRequestSucceeds();
  }
  // The error's param, or the whole answer if it is no 400 with one error object.
  std::string ParamOf400(std::string_view path, std::string_view body) {
    const std::string answer = Ask(Post(path, body));
    const nlohmann::json parsed = nlohmann::json::parse(BodyOf(answer), nullptr, false);
    if (StatusOf(answer) != 400 || !parsed.contains("error") || parsed["error"].size() != 4) return answer;
    return parsed["error"]["param"].is_null() ? "null" : parsed["error"]["param"].get<std::string>();
  }
};

TEST_F(HostileInput, WrongTypesNameTheirField) {
  StartServer();
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, std::string>>{{"max_tokens", "9223372036854775808"},
                                                        {"max_tokens", "1.5"},
                                                        {"n", "1e9"},
                                                        {"temperature", "\"warm\""},
                                                        {"top_k", "true"},
                                                        {"seed", "18446744073709551616"},
                                                        {"seed", "9223372036854775808"},
                                                        {"stop", "7"},
                                                        {"stop", "{\"a\":1}"},
                                                        {"logit_bias", "[1]"},
                                                        {"logit_bias", "{\"x\":1}"},
                                                        {"ignore_eos", "1"},
                                                        {"stream", "\"yes\""},
                                                        {"stream_options", "{}"},
                                                        {"best_of", "2"},
                                                        {"tools", "[{}]"},
                                                        {"tool_choice", "\"required\""},
                                                        {"response_format", "{\"type\":\"json_object\"}"},
                                                        {"chat_template", "\"x\""},
                                                        {"audio", "{}"},
                                                        {"modalities", "[\"audio\"]"},
                                                        {"prediction", "{}"},
                                                        {"reasoning_effort", "\"high\""},
                                                        {"function_call", "{}"},
                                                        {"functions", "[1]"},
                                                        {"web_search_options", "{}"},
                                                        {"verbosity", "\"low\""},
                                                        {"suffix", "\"x\""},
                                                        {"logprobs", "6"},
                                                        {"logprobs", "-2"},
                                                        {"logprobs", "true"},
                                                        {"stop_token_ids", "[0.5]"}}) {
    const std::string body = fmt::format(R"({{"model":"tiny","prompt":"a","{}":{}}})", field, value);
    EXPECT_TRUE(ParamOf400("/v1/completions", body).starts_with(field))
        << body << ParamOf400("/v1/completions", body);
  }
  for (const char* prompt : {"[]", "7", "{}", "[1,\"a\"]", "[[]]", "[[1.5]]", "null"}) {
    const std::string body = fmt::format(R"({{"model":"tiny","prompt":{}}})", prompt);
    EXPECT_TRUE(ParamOf400("/v1/completions", body).starts_with("prompt")) << body;
  }
  EXPECT_EQ(ParamOf400("/v1/completions", R"({"model":"a\nb","prompt":"a"})"), "model");
  EXPECT_EQ(ParamOf400("/v1/completions", R"({"model":")" + std::string(1 << 20, 'm') + R"(","prompt":"a"})"),
            "model");
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", R"({"model":"other","prompt":"a"})"))), 404);
}

TEST_F(HostileInput, WrongMessagesNameTheirPlace) {
  StartServer();
  const auto chat = [&](const std::string& messages) {
    return ParamOf400("/v1/chat/completions", R"({"model":"tiny","messages":)" + messages + "}");
  };
  EXPECT_EQ(chat("null"), "messages");
  EXPECT_EQ(chat("[]"), "messages");
  EXPECT_EQ(chat("[7]"), "messages[0]");
  EXPECT_EQ(chat(R"([{"role":"root","content":"a"}])"), "messages[0].role");
  EXPECT_EQ(chat(R"([{"role":"user","content":"a"},{"role":"user"}])"), "messages[1].content");
  EXPECT_EQ(chat(R"([{"role":"user","content":[{"type":"odd"}]}])"), "messages[0].content[0].type");
  std::string many = "[7";
  for (int i = 0; i < 10'000; ++i) many += ",7";
  EXPECT_EQ(chat(many + "]"), "messages");
}

TEST_F(HostileInput, JsonIsStrictAndBounded) {
  StartServer();
  const std::string deep = std::string(200'000, '[');
  std::string keys = "{\"a\":{";
  for (int i = 0; i < 100'000; ++i) keys += fmt::format("\"{}\":1,", i);
  for (const std::string& body : std::vector<std::string>{
           "", "{", "[]", "7", "{} {}", deep, "{\"a\":" + deep, keys, R"({"a":1,"a":2})", R"({"a":1e400})",
           R"({"a":"\ud800"})", "{\"a\":\"\xff\"}", "{\"a\":\"\xed\xa0\x80\"}", std::string("{}\0", 3),
           R"({"a":NaN})", R"({"a":Infinity})"}) {
    EXPECT_EQ(ParamOf400("/v1/completions", body), "null") << body.substr(0, 40);
  }
}

TEST_F(HostileInput, LargeBodiesAreRefusedAndTheClientCanReadIt) {
  StartServer();
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", std::string(5 << 20, ' ')))), 413);
  const std::string chunked =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: "
      "chunked\r\n\r\n";
  EXPECT_EQ(StatusOf(Ask(chunked + "80000000\r\nabc")), 413) << "a chunk of 2 GiB";
  EXPECT_EQ(StatusOf(Ask(chunked + "-2\r\nabc")), 400);
  std::string endless = chunked;
  for (int i = 0; i < 700; ++i) endless += "1000\r\n" + std::string(4096, ' ') + "\r\n";
  EXPECT_EQ(StatusOf(Ask(endless)), 413);
}

TEST_F(HostileInput, HeadersAreCheckedBeforeTheBody) {
  StartServer();
  const std::string body = R"({"model":"tiny","prompt":"a"})";
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", body, "Content-Encoding: gzip\r\n"))), 415);
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", body, "Transfer-Encoding: gzip\r\n"))), 400);
  EXPECT_EQ(StatusOf(Ask("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
                         "Content-Length: 2\r\n\r\n{}")),
            415);
  EXPECT_EQ(StatusOf(Ask(Get("/nothing"))), 404);
  const std::string not_allowed = Ask(Get("/v1/completions"));
  EXPECT_EQ(StatusOf(not_allowed), 405);
  EXPECT_NE(not_allowed.find("Allow: POST\r\n"), std::string::npos);
  EXPECT_EQ(StatusOf(Ask("GET /health HTTP/1.1\r\n\r\n")), 400) << "no Host";
  EXPECT_EQ(StatusOf(Ask("\x16\x03\x01 noise\r\n\r\n")), 400);
  EXPECT_EQ(StatusOf(Ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")), 400);
}

TEST_F(HostileInput, ManyOrLongHeadersAre431) {
  StartServer();
  std::string many;
  for (int i = 0; i < 10'000; ++i) many += fmt::format("h{}: 1\r\n", i);
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", "{}", many))), 431);
  std::string hundred;
  for (int i = 0; i < 101; ++i) hundred += fmt::format("h{}: 1\r\n", i);
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", "{}", hundred))), 431);
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", "{}", "h: " + std::string(9 << 10, 'h') + "\r\n"))), 431);
  EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", "{}", "h: " + std::string(17 << 10, 'h') + "\r\n"))), 431);
}

TEST_F(HostileInput, SlowClientsAreCut) {
  StartServer({.header_limit = absl::Milliseconds(200),
               .body_limit = absl::Milliseconds(200),
               .idle_limit = absl::Milliseconds(300)});
  RawClient silent(server_->address()), slow_head(server_->address()), slow_body(server_->address()),
      idle(server_->address());
  slow_head.Send("GET /health HT");
  slow_body.Send(Post("/v1/completions", "{}").substr(0, Post("/v1/completions", "{}").size() - 1));
  idle.Send(Get("/health"));
  EXPECT_EQ(StatusOf(idle.ReadAnswer()), 200);
  EXPECT_EQ(silent.ReadAll(), "");
  EXPECT_TRUE(silent.ended());
  EXPECT_EQ(StatusOf(slow_head.ReadAll()), 408);
  EXPECT_TRUE(slow_head.ended());
  EXPECT_EQ(StatusOf(slow_body.ReadAll()), 408);
  EXPECT_EQ(idle.ReadAll(), "");
  EXPECT_TRUE(idle.ended());
}

TEST_F(HostileInput, ConnectionsBeyondTheLimitAreClosed) {
  StartServer({.max_connections = 1});
  {
    RawClient first(server_->address());
    first.Send(Get("/health"));
    EXPECT_EQ(StatusOf(first.ReadAnswer()), 200);
    RawClient second(server_->address());
    second.Send(Get("/health"));
    EXPECT_EQ(second.ReadAll(), "");
    EXPECT_TRUE(second.ended());
    first.Send("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(StatusOf(first.ReadAll()), 200);
  }
}

}  // namespace
}  // namespace tandem::gateway::http
