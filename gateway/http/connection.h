// One client's connection: reads requests, keeps their limits, writes answers.
//
//   reading header -> reading body -> answering -> reading header (keep-alive)
//         \________________\______ early answer -> draining -> closed
//
// One read is in flight in every state, so that a client's leaving is seen at once, also while its answer is
// made; what it sends early (pipelining) waits in a small buffer, and when that is full reading pauses. One
// write is in flight; what comes meanwhile waits, and an exchange that streams asks `writing()` first.
//
// Everything but Start, Drain and Abort runs on the connection's strand. Closing destroys the exchange, and
// with it the generation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gateway/http/beast.h"
#include "gateway/http/generation_exchange.h"
#include "gateway/http/http_answer.h"
#include "gateway/http/http_server.h"
#include "gateway/http/lazy_timer.h"
#include "gateway/http/routes.h"
#include "gateway/http/server_state.h"

namespace tandem::gateway::http {

class Connection : public std::enable_shared_from_this<Connection>, private AnswerPort {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;

  // The socket's executor is a strand of its own. Borrows `state`.
  Connection(Socket socket, ServerState& state, int64_t id);

  // Any thread:
  void Start();
  void Drain();  // close when idle, or after the answer that is being made
  void Abort();  // close now

 private:
  enum class Phase { kHeader, kBody, kAnswering, kDraining, kClosed };
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  // Runs one handler. What it throws ends this connection alone, with an error answer if none has begun.
  template <typename Handler>
  void Guard(const Handler& handler);

  // Reading.
  void BeginRequest(absl::Duration limit);
  void Read();
  void OnRead(const boost::system::error_code& error, size_t bytes);
  void Process();
  bool ParseSome();
  void OnParseError(const boost::system::error_code& error);
  void OnHeader();
  absl::Status CheckHeader();
  absl::Status CheckHeaderSizes() const;
  absl::Status CheckBodyHeaders() const;
  void OnRequest();
  void OnReadDeadline();

  // Answering.
  absl::StatusOr<Answer> AnswerBody();
  absl::StatusOr<Answer> AnswerTokenize();
  absl::StatusOr<Answer> AnswerDetokenize();
  absl::Status StartGeneration();
  void Refuse(const absl::Status& why);
  // Before the request has arrived whole: the connection ends with it.
  void RefuseEarly(const absl::Status& why, bool body_follows);

  // AnswerPort.
  void SendAnswer(Answer answer) override;
  void BeginStream(Answer head) override;
  void SendStream(std::string_view bytes) override;
  void EndStream(bool keep_alive) override;
  bool writing() const override { return writing_; }
  void Fail() override;

  // Writing.
  void Write(std::string bytes);
  void WriteSome();
  void OnWritten(const boost::system::error_code& error, size_t bytes);
  void OnWriteStall();
  void FinishAnswer();
  void BeginDrain();
  void Close();

  // Constant after construction.
  Socket socket_;
  ServerState& state_;
  const int64_t id_;

  Phase phase_ = Phase::kHeader;
  LazyTimer read_timer_, write_timer_;
  std::vector<char> read_bytes_;      // of the read in flight, apart from the buffer: consuming moves that
  boost::beast::flat_buffer buffer_;  // for the parser
  std::optional<Parser> parser_;
  bool reading_ = false;
  bool request_begun_ = false;  // a byte of it has come
  bool peer_done_ = false;      // has shut its side
  int64_t drained_bytes_ = 0;

  std::optional<Target> target_;
  std::string request_id_;
  std::unique_ptr<GenerationExchange> exchange_;

  std::string sending_, waiting_;
  size_t sent_ = 0;
  bool writing_ = false;
  bool answer_begun_ = false;
  bool answer_complete_ = false;
  bool keep_alive_ = true;
  bool chunked_ = false;
  bool drain_after_ = false;  // the client may still be sending
};

}  // namespace tandem::gateway::http
