// The gateway's HTTP/1.1 door: OpenAI's API, tokenisation, model list and health, as docs/api.md has them.
//
//   ASSIGN_OR_RETURN(auto server, HttpServer::Start({.listen = address}, generator, observer));
//   server->address();                       // with the port in use
//   server->Shutdown(absl::Seconds(30));     // stop accepting, let answers finish, cut the rest
//
// A few threads serve all connections; each connection's state belongs to one strand. Generator::Start,
// Tokenize and Detokenize run on these threads. A client that leaves, stops reading or is cut cancels its
// generation. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/option_values.h"
#include "common/rpc/listener.h"
#include "gateway/admission/generator.h"
#include "gateway/door_observer.h"
#include "gateway/limits.h"

namespace tandem::gateway::http {

class HttpServer {
 public:
  struct Options {
    Address listen = {};    // TCP or Unix socket; port 0 = any
    bool insecure = false;  // allow an address beyond this machine: there is no TLS here
    int threads = 4;
    int max_connections = 0;  // further ones are closed at once; 0: as many as descriptors allow

    int64_t body_bytes = limits::kHttpBodyBytes;
    absl::Duration header_limit = limits::kHttpHeaders;  // from a request's first byte, or from the connect
    absl::Duration body_limit = limits::kHttpBody;       // for the whole body
    absl::Duration idle_limit = limits::kHttpIdle;       // between requests
    absl::Duration write_stall = limits::kWriteStall;    // without the client taking a byte
    absl::Duration ping_interval = limits::kSsePing;     // of silence in a stream
    absl::Duration drain_limit = limits::kEarlyAnswerDrain;
    int64_t drain_bytes = limits::kEarlyAnswerDrainBytes;

    // What one generation may have waiting for a client that reads slowly; and, written whole, in all.
    int64_t stream_buffer_bytes = limits::kStreamBufferBytes;
    int64_t whole_answer_bytes = limits::kWholeAnswerBytes;
    int socket_send_bytes = 128 << 10;  // kernel's send buffer of a connection; 0: the system's choice

    bool speculation_metrics = false;  // vLLM's metrics.speculative_decoding in each answer
    bool prediction_tokens = false;    // accepted and rejected drafts in each answer's usage

    // Checks the Authorization header (empty if absent). Unset: no keys.
    std::function<absl::Status(std::string_view authorization)> authorize = nullptr;
    // What /health says; and what must hold, besides a generator that takes requests, for /ready.
    std::function<bool()> is_live = [] { return true; };
    std::function<bool()> is_ready = [] { return true; };
    const Clock* clock = &Clock::Real();  // wall time of answers
  };

  // Binds and serves. Borrows `generator` and `observer`. kInvalidArgument for an address beyond this machine
  // without `insecure`, kUnavailable if it cannot listen.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Options options, Generator& generator,
                                                           DoorObserver& observer);
  // The same on a socket that was bound earlier; Options::listen is not looked at.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(Options options,
                                                           std::unique_ptr<rpc::Listener> listener,
                                                           Generator& generator, DoorObserver& observer);
  // Shutdown without patience.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;

  const Address& address() const;
  // Closes the listening socket; /ready turns 503, answers close their connections, idle ones are closed.
  void StopAccepting();
  // StopAccepting, waits up to `patience` for running requests, cuts what is left, joins. Idempotent.
  void Shutdown(absl::Duration patience);
  // Generations being answered, streamed or not.
  int open_streams() const;

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::gateway::http
