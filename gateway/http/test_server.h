// For tests of the HTTP door: a Generator whose events a test drives, and a client of raw bytes.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/http/http_server.h"

namespace tandem::gateway::http {

// Says "Hi" and "!" to each choice, in two deltas, unless told to wait for the test.
class FakeGenerator : public Generator {
 public:
  // Set before requests come.
  bool by_hand = false;  // the test sends the events itself
  absl::Status refuse = absl::OkStatus();
  bool is_ready = true;
  std::function<void()> before = [] {};  // each call; may throw

  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request, EventSink& sink) override {
    before();
    if (!refuse.ok()) return refuse;
    if (request.model != "tiny") return error::ModelNotFound(request.model);
    {
      absl::MutexLock lock(&mu_);
      last_ = request;
      sink_ = &sink;
      ++running_;
    }
    auto generation = std::make_unique<Running>(*this, request.request_id);
    if (!by_hand) Play(request, sink);
    return generation;
  }

  absl::StatusOr<std::vector<int32_t>> Tokenize(const TokenizeRequest& request) override {
    before();
    return std::vector<int32_t>{1, 2, static_cast<int32_t>(request.text.value_or("").size())};
  }
  absl::StatusOr<std::string> Detokenize(const std::string&, const char* param,
                                         const std::vector<int64_t>& ids) override {
    for (const int64_t id : ids) {
      if (id < 0 || id >= 100) return error::OutOfRange(param, "0..99", id);
    }
    return std::string("a\"b");
  }
  ModelInfo model_info() const override {
    return {"tiny", {"org/tiny"}, 4096, 100, "fp", absl::FromUnixSeconds(5)};
  }
  bool ready() const override { return is_ready; }

  // The newest request and its sink, once one runs.
  EventSink& AwaitSink() {
    absl::MutexLock lock(&mu_);
    mu_.Await(absl::Condition(
        +[](FakeGenerator* self) { return self->running_ > 0; }, this));
    return *sink_;
  }
  bool AwaitCancelled() {
    absl::MutexLock lock(&mu_);
    return mu_.AwaitWithTimeout(absl::Condition(
                                    +[](FakeGenerator* self) { return self->running_ == 0; }, this),
                                absl::Seconds(10));
  }
  GenerationRequest last() {
    absl::MutexLock lock(&mu_);
    return last_;
  }

  static Started StartedOf(const GenerationRequest& request) {
    const size_t prompts = std::max<size_t>(request.prompts.size(), 1);
    return {request.request_id, request.seed.value_or(42), std::vector<int32_t>(prompts, 3), 2, "fp", "tiny"};
  }

 private:
  struct Running : Generation {
    Running(FakeGenerator& owner, std::string id) : owner(owner), id(std::move(id)) {}
    ~Running() override {
      absl::MutexLock lock(&owner.mu_);
      --owner.running_;
    }
    const std::string& request_id() const override { return id; }
    FakeGenerator& owner;
    const std::string id;
  };

  static DeltaToken Token(int id, const char* bytes, bool logprobs) {
    DeltaToken token{.id = id, .bytes = bytes, .logprob = std::nullopt, .top = {}};
    if (logprobs) {
      token.logprob = -0.5f;
      token.top = {{id, bytes, -0.5f}};
    }
    return token;
  }

  static void Play(const GenerationRequest& request, EventSink& sink) {
    const Started started = StartedOf(request);
    sink.OnStarted(started);
    const int choices = static_cast<int>(started.prompt_tokens.size() * request.n.value_or(1));
    for (int c = 0; c < choices; ++c) {
      sink.OnDelta({c, 0, "Hi", {Token(7, "Hi", request.num_logprobs.has_value())}});
      sink.OnDelta({c, 1, "!", {Token(8, "!", request.num_logprobs.has_value())}});
      sink.OnFinished(
          {.choice = c, .reason = Finished::Reason::kStop, .prompt_tokens = 3, .output_tokens = 2});
    }
    sink.OnAllFinished();
  }

  absl::Mutex mu_;
  int running_ = 0;
  EventSink* sink_ = nullptr;
  GenerationRequest last_;
};

struct CountingObserver : DoorObserver {
  void OnUnknownFields(int count) override { unknown_fields += count; }
  void OnWriteStall() override { ++write_stalls; }
  void OnRefused(const char*, const absl::Status&) override { ++refused; }
  void OnStreams(const char*, int open) override {
    absl::MutexLock lock(&mu);
    streams = open;
  }
  // An answer is sent before its stream counts as closed.
  bool AwaitNoStreams() {
    absl::MutexLock lock(&mu);
    return mu.AwaitWithTimeout(absl::Condition(
                                   +[](int* open) { return *open == 0; }, &streams),
                               absl::Seconds(10));
  }
  absl::Mutex mu;
  int streams ABSL_GUARDED_BY(mu) = 0;
  std::atomic<int> unknown_fields = 0, write_stalls = 0, refused = 0;
};

// A blocking client with a time limit on every read.
class RawClient {
 public:
  explicit RawClient(const Address& address, int receive_bytes = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_bytes > 0) setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(address.port);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<const sockaddr*>(&name), sizeof name), 0);
  }
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;

  // Whether the server took all of it.
  bool Send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // Reads until the text has come, or the connection ends, or 20 s without a byte.
  std::string ReadUntil(std::string_view text) {
    while (text.empty() || received_.find(text) == std::string::npos) {
      if (!ReadSome()) break;
    }
    return std::exchange(received_, std::string());
  }
  std::string ReadAll() { return ReadUntil(""); }
  // One answer with Content-Length, headers included; what follows it stays for the next call.
  std::string ReadAnswer() {
    size_t head_end;
    while ((head_end = received_.find("\r\n\r\n")) == std::string::npos) {
      if (!ReadSome()) return std::exchange(received_, std::string());
    }
    const size_t at = received_.find("Content-Length: ");
    const size_t length = at < head_end ? std::stoul(received_.substr(at + 16)) : 0;
    while (received_.size() < head_end + 4 + length && ReadSome()) {
    }
    const std::string answer = received_.substr(0, head_end + 4 + length);
    received_.erase(0, answer.size());
    return answer;
  }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  bool ended() const { return ended_; }

 private:
  bool ReadSome() {
    pollfd readable{fd_, POLLIN, 0};
    if (poll(&readable, 1, 20'000) <= 0) return false;
    char bytes[4096];
    const ssize_t got = recv(fd_, bytes, sizeof bytes, 0);
    ended_ = got <= 0;
    if (!ended_) received_.append(bytes, static_cast<size_t>(got));
    return !ended_;
  }
  int fd_;
  std::string received_;
  bool ended_ = false;
};

inline std::string Post(std::string_view path, std::string_view body, std::string_view headers = "") {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nx-request-id: "
      "r1\r\n{}Content-Length: "
      "{}\r\n\r\n{}",
      path, headers, body.size(), body);
}
inline std::string Get(std::string_view path) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: x\r\nx-request-id: r1\r\n\r\n", path);
}
inline int StatusOf(std::string_view answer) {
  return answer.starts_with("HTTP/1.1 ") ? std::stoi(std::string(answer.substr(9, 3))) : 0;
}
inline std::string BodyOf(const std::string& answer) {
  const size_t end = answer.find("\r\n\r\n");
  return end == std::string::npos ? "" : answer.substr(end + 4);
}
// The body of a whole chunked answer; "not whole" if its last chunk is missing.
inline std::string ChunkedBodyOf(const std::string& answer) {
  std::string chunks = BodyOf(answer), body;
  while (true) {
    const size_t line = chunks.find("\r\n");
    if (line == std::string::npos) return body + "(not whole)";
    const size_t size = std::stoul(chunks, nullptr, 16);
    if (size == 0) return body;
    body += chunks.substr(line + 2, size);
    chunks.erase(0, line + 2 + size + 2);
  }
}

// 12 s after the epoch, always.
class HttpDoorTest : public ::testing::Test {
 protected:
  void StartServer(HttpServer::Options options = {}) {
    options.listen = {"127.0.0.1", 0, ""};
    options.threads = 2;
    clock_.Advance(absl::Seconds(12));
    options.clock = &clock_;
    auto server = HttpServer::Start(options, generator_, observer_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::string Ask(std::string_view request) {
    RawClient client(server_->address());
    client.Send(request);
    return client.ReadAnswer();
  }
  void ExpectGoodRequestSucceeds() {
    EXPECT_EQ(StatusOf(Ask(Post("/v1/completions", R"({"model":"tiny","prompt":"a"})"))), 200);
  }

  FakeClock clock_;
  FakeGenerator generator_;
  CountingObserver observer_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace tandem::gateway::http
