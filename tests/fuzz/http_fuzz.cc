// Bytes on a connection of the gateway's HTTP door: the real connection code on one end of a socket pair. Two
// bytes come first: the size of the pieces in which the rest arrives (0: all at once), and switches.
//
// No answer may be a fault of ours, each must be well-formed, and a client that has gone leaves nothing
// behind that waits for a timer.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>

#include "gateway/errors.h"
#include "gateway/http/connection.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/http_answers.h"
#include "tests/fuzz/replay_generator.h"

namespace tandem::fuzz {
namespace {

namespace asio = boost::asio;
using gateway::http::Connection;
using gateway::http::HttpServer;

constexpr size_t kMaxPieces = 512;
constexpr int kIdleRounds = 16;  // without any event: nothing but a timer is waited for

enum Switch { kKeys = 1, kSmallBody = 2, kDraining = 4, kLeaveAtOnce = 8, kSpeculationMetrics = 16 };

HttpServer::Options OptionsFor(int switches) {
  HttpServer::Options options;
  if (switches & kKeys) {
    options.authorize = [](std::string_view header) {
      return header == "Bearer k" ? absl::OkStatus() : gateway::error::InvalidApiKey();
    };
  }
  if (switches & kSmallBody) options.body_bytes = 64;
  options.speculation_metrics = options.prediction_tokens = (switches & kSpeculationMetrics) != 0;
  return options;
}

// The client's end.
class Client {
 public:
  Client(int fd, std::string_view bytes, size_t piece) : fd_(fd), unsent_(bytes), piece_(piece) {}
  ~Client() { Leave(); }
  Client(const Client&) = delete;

  // Sends and receives what is possible now; whether anything was.
  bool Move() {
    const bool received = Receive();
    if (fd_ < 0 || finished_) return received;
    if (unsent_.empty()) {
      finished_ = true;
      return shutdown(fd_, SHUT_WR) == 0;
    }
    const ssize_t sent = send(fd_, unsent_.data(), std::min(piece_, unsent_.size()), MSG_NOSIGNAL);
    if (sent > 0) unsent_.remove_prefix(static_cast<size_t>(sent));
    if (sent < 0 && errno != EAGAIN) unsent_ = {};  // the server has closed
    return received || sent > 0 || unsent_.empty();
  }
  bool all_sent() const { return unsent_.empty(); }
  void Leave() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  bool Receive() {
    if (fd_ < 0) return false;
    char bytes[4096];
    const ssize_t got = recv(fd_, bytes, sizeof bytes, 0);
    if (got > 0) answers_.append(bytes, static_cast<size_t>(got));
    return got > 0;
  }
  std::string_view answers() const { return answers_; }

 private:
  int fd_;
  std::string_view unsent_;
  const size_t piece_;
  bool finished_ = false;
  std::string answers_;
};

void CheckAnswers(std::string_view received) {
  while (!received.empty()) {
    const std::optional<HttpAnswer> answer = TakeAnswer(received);
    if (!answer) return;
    TANDEM_CHECK(answer->status == 100 || answer->status == 200 ||
                 (answer->status >= 400 && answer->status < 500) || answer->status == 503);
    if (answer->is_json) {
      TANDEM_CHECK(nlohmann::json::accept(answer->body));
    }
  }
}

void Run(size_t piece, int switches, std::string_view bytes) {
  static ReplayGenerator generator;
  static gateway::DoorObserver observer;
  static asio::io_context io(1);  // making one costs more than most inputs
  io.restart();
  bool closed = false;
  gateway::http::ServerState state{.options = OptionsFor(switches),
                                   .generator = generator,
                                   .observer = observer,
                                   .on_closed = [&closed](int64_t) { closed = true; }};
  state.draining = (switches & kDraining) != 0;

  int ends[2];
  TANDEM_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  Client client(ends[0], bytes, piece);
  Connection::Socket socket(asio::make_strand(io));
  socket.assign(asio::generic::stream_protocol(AF_UNIX, 0), ends[1]);
  auto connection = std::make_shared<Connection>(std::move(socket), state, 1);
  connection->Start();
  int idle = 0;
  while (!closed) {
    const bool served = io.poll() > 0;
    if ((switches & kLeaveAtOnce) && client.all_sent()) client.Leave();
    idle = client.Move() || served ? 0 : idle + 1;
    TANDEM_CHECK(idle < kIdleRounds);
  }
  while (client.Receive()) {
  }
  connection.reset();
  io.poll();  // cancelled timers; after this nothing may be left
  TANDEM_CHECK(io.stopped());
  CheckAnswers(client.answers());
}

}  // namespace
}  // namespace tandem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t piece = data[0] == 0 ? size : std::max<size_t>(data[0], size / tandem::fuzz::kMaxPieces + 1);
  tandem::fuzz::Run(piece, data[1], tandem::fuzz::View(data + 2, size - 2));
  return 0;
}
