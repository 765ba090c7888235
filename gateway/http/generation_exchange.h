// One generation's answer, whole or as server-sent events.
//
// Lives on a connection's strand. The generation's events come through an EventBuffer on the batcher's
// thread; a wake-up is posted to the strand, and there everything that waits is written in one piece,
// provided that the previous piece has left. So a slow client gets fewer, larger events, and the buffer's
// bound holds.
//
// Destroying it destroys the generation, which cancels it; so it never dies on the batcher's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "gateway/http/answer_format.h"
#include "gateway/http/beast.h"
#include "gateway/http/event_buffer.h"
#include "gateway/http/http_answer.h"
#include "gateway/http/lazy_timer.h"
#include "gateway/http/requests.h"
#include "gateway/http/server_state.h"

namespace tandem::gateway::http {

// What an exchange needs of its connection. No call reenters the exchange.
class AnswerPort {
 public:
  virtual ~AnswerPort() = default;
  // The whole answer; the last call.
  virtual void SendAnswer(Answer answer) = 0;
  // Or: the head, parts of the body, and the end.
  virtual void BeginStream(Answer head) = 0;
  virtual void SendStream(std::string_view bytes) = 0;
  virtual void EndStream(bool keep_alive) = 0;
  // Whether bytes wait to be sent. When they have left, OnWritten is called.
  virtual bool writing() const = 0;
  // Cuts the connection, soon.
  virtual void Fail() = 0;
};

class GenerationExchange {
 public:
  // `wake` is called on any thread and leads to OnWake on the strand. Borrows `port` and `state`.
  GenerationExchange(AnswerPort& port, ServerState& state, const boost::asio::any_io_executor& strand,
                     const char* route, const ParsedGeneration& parsed, std::function<void()> wake);
  ~GenerationExchange();

  // Hands the request to Generator. An error: nothing was started, and nothing written.
  absl::Status Start(GenerationRequest request);
  void OnWake() { Pump(); }
  void OnWritten() {
    if (begun_) Pump();
  }

 private:
  void Pump();
  void PumpStream(EventBuffer::Events events);
  void PumpWhole(EventBuffer::Events events);
  void EndWithError(const absl::Status& error);
  void Ping();
  Headers AnswerHeaders(const Started& started) const;

  AnswerPort& port_;
  ServerState& state_;
  const char* const route_;
  const bool stream_;
  const std::string request_id_;
  const std::unique_ptr<AnswerFormat> format_;
  bool begun_ = false;  // the head is written
  bool ended_ = false;
  LazyTimer ping_timer_;
  EventBuffer buffer_;
  std::unique_ptr<Generation> generation_;  // before buffer_ in destruction: it borrows it
};

}  // namespace tandem::gateway::http
