#include "gateway/http/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/http/json_body.h"
#include "gateway/http/model_answers.h"
#include "gateway/http/requests.h"

namespace tandem::gateway::http {
namespace {

namespace asio = boost::asio;
namespace beast_http = boost::beast::http;
using boost::system::error_code;

// What may wait for the parser: more than the headers' limit, so that the parser meets its limit first.
constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kBufferBytes = 64 << 10;
static_assert(kBufferBytes > limits::kHttpHeaderBytes + kReadBytes);

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

bool SameIgnoringCase(std::string_view a, std::string_view b) {
  return boost::beast::iequals({a.data(), a.size()}, {b.data(), b.size()});
}

}  // namespace

Connection::Connection(Socket socket, ServerState& state, int64_t id)
    : socket_(std::move(socket)),
      state_(state),
      id_(id),
      read_timer_(socket_.get_executor(), [this] { Guard([this] { OnReadDeadline(); }); }),
      write_timer_(socket_.get_executor(), [this] { Guard([this] { OnWriteStall(); }); }),
      read_bytes_(kReadBytes),
      buffer_(kBufferBytes) {}

void Connection::Start() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    // Its first bytes are there, or nearly; one that idles between requests may wait longer.
    self->BeginRequest(self->state_.options.header_limit);
    self->Read();
  });
}

void Connection::Drain() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ == Phase::kHeader && !self->request_begun_) self->Close();
  });
}

void Connection::Abort() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->Close(); });
}

template <typename Handler>
void Connection::Guard(const Handler& handler) {
  const std::shared_ptr<Connection> self = shared_from_this();
  try {
    return handler();
  } catch (...) {  // no memory, above all
  }
  try {
    if (phase_ == Phase::kClosed) return;
    if (!answer_begun_ && parser_)
      return RefuseEarly(error::InternalError(request_id_), /*body_follows=*/false);
  } catch (...) {
  }
  Close();
}

// --- Reading ---------------------------------------------------------------------------------------------

void Connection::BeginRequest(absl::Duration limit) {
  phase_ = Phase::kHeader;
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(limits::kHttpHeaderBytes));
  parser_->body_limit(static_cast<uint64_t>(state_.options.body_bytes));
  target_.reset();
  exchange_.reset();
  request_begun_ = false;
  request_id_ = RequestIdFrom("");
  answer_begun_ = answer_complete_ = false;
  keep_alive_ = true;
  read_timer_.Set(limit);
}

void Connection::Read() {
  if (reading_ || peer_done_ || phase_ == Phase::kClosed) return;
  const size_t room = std::min(kReadBytes, kBufferBytes - buffer_.size());
  if (room == 0) return;  // the client is ahead of its answers
  reading_ = true;
  socket_.async_read_some(asio::buffer(read_bytes_.data(), room),
                          [self = shared_from_this()](const error_code& error, size_t bytes) {
                            self->Guard([&] { self->OnRead(error, bytes); });
                          });
}

void Connection::OnRead(const error_code& error, size_t bytes) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) {
    peer_done_ = true;
    // The answer is made and on its way: it may still be read by a client that only shut its own side.
    if (error == asio::error::eof && phase_ == Phase::kAnswering && answer_complete_) return;
    return Close();
  }
  std::memcpy(buffer_.prepare(bytes).data(), read_bytes_.data(), bytes);
  buffer_.commit(bytes);
  Process();
  Read();
}

void Connection::Process() {
  if (phase_ == Phase::kDraining) {
    drained_bytes_ += static_cast<int64_t>(buffer_.size());
    buffer_.consume(buffer_.size());
    if (drained_bytes_ > state_.options.drain_bytes) Close();
    return;
  }
  while ((phase_ == Phase::kHeader || phase_ == Phase::kBody) && buffer_.size() > 0 && ParseSome()) {
  }
}

// Whether to go on with what is in the buffer.
bool Connection::ParseSome() {
  if (!request_begun_) {
    request_begun_ = true;
    read_timer_.Set(state_.options.header_limit);
  }
  error_code error;
  const size_t used = parser_->put(buffer_.data(), error);
  buffer_.consume(used);
  if (error == beast_http::error::need_more) {
    // Part of a header or chunk is in the buffer; one that fills it will never be whole.
    if (buffer_.size() == kBufferBytes) OnParseError(beast_http::error::buffer_overflow);
    return false;
  }
  if (error) {
    OnParseError(error);
    return false;
  }
  if (phase_ == Phase::kHeader) OnHeader();
  if (phase_ == Phase::kBody && parser_->is_done()) OnRequest();
  return true;
}

void Connection::OnParseError(const error_code& error) {
  absl::Status why = error::Invalid("", "request is not valid HTTP/1.1");
  if (error == beast_http::error::header_limit || error == beast_http::error::buffer_overflow)
    why = error::HeadersTooLarge(limits::kHttpHeaderBytes);
  if (error == beast_http::error::body_limit) why = error::BodyTooLarge(state_.options.body_bytes);
  if (parser_->is_header_done()) request_id_ = RequestIdFrom(View(parser_->get()["x-request-id"]));
  RefuseEarly(why, /*body_follows=*/true);
}

void Connection::OnHeader() {
  const auto& message = parser_->get();
  request_id_ = RequestIdFrom(View(message["x-request-id"]));
  keep_alive_ = message.keep_alive();
  phase_ = Phase::kBody;
  if (absl::Status status = CheckHeader(); !status.ok()) return RefuseEarly(status, !parser_->is_done());
  if (parser_->is_done()) return;
  parser_->eager(true);
  read_timer_.Set(state_.options.body_limit);
  if (message.version() >= 11 && SameIgnoringCase(View(message[beast_http::field::expect]), "100-continue"))
    Write("HTTP/1.1 100 Continue\r\n\r\n");
}

// Whatever can be refused without the body, in the order of what a client has to fix first.
absl::Status Connection::CheckHeader() {
  const auto& message = parser_->get();
  RETURN_IF_ERROR(CheckHeaderSizes());
  if (message.version() != 10 && message.version() != 11)
    return error::Invalid("", "only HTTP/1.0 and HTTP/1.1 are supported");
  if (message.version() == 11 && message.count(beast_http::field::host) != 1)
    return error::Invalid("", "the Host header is required, once");
  // Any other coding leaves the body's end open to interpretation.
  if (message.count(beast_http::field::transfer_encoding) > 0 &&
      !SameIgnoringCase(View(message[beast_http::field::transfer_encoding]), "chunked"))
    return error::Invalid("", "Transfer-Encoding must be chunked");

  absl::StatusOr<Target> target = FindRoute(View(message.method_string()), View(message.target()));
  // Keys come before routes: without one nothing can be learnt.
  const bool is_public = target.ok() && IsPublic(target->route);
  if (state_.options.authorize && !is_public) {
    if (message.count(beast_http::field::authorization) > 1) return error::InvalidApiKey();
    RETURN_IF_ERROR(state_.options.authorize(View(message[beast_http::field::authorization])));
  }
  RETURN_IF_ERROR(target.status());
  target_ = *std::move(target);
  return TakesBody(target_->route) ? CheckBodyHeaders() : absl::OkStatus();
}

absl::Status Connection::CheckHeaderSizes() const {
  int count = 0;
  const auto& message = parser_->get();
  size_t longest = message.method_string().size() + message.target().size();
  // The parser's own limit counts what one call leaves unread; headers that arrive in pieces pass below it.
  size_t total = longest;
  for (const auto& field : message) {
    ++count;
    const size_t bytes = field.name_string().size() + field.value().size();
    longest = std::max(longest, bytes);
    total += bytes;
  }
  if (count > limits::kHttpHeaderCount || longest > static_cast<size_t>(limits::kHttpHeaderLineBytes) ||
      total > static_cast<size_t>(limits::kHttpHeaderBytes))
    return error::HeadersTooLarge(limits::kHttpHeaderBytes);
  return absl::OkStatus();
}

absl::Status Connection::CheckBodyHeaders() const {
  const auto& message = parser_->get();
  const std::string_view encoding = View(message[beast_http::field::content_encoding]);
  if (!encoding.empty() && !SameIgnoringCase(encoding, "identity"))
    return error::EncodingNotSupported(encoding);
  const std::string_view given = View(message[beast_http::field::content_type]);
  std::string_view type = given.substr(0, given.find(';'));
  while (type.ends_with(' ')) type.remove_suffix(1);
  if (!SameIgnoringCase(type, "application/json")) return error::MediaTypeNotSupported(given);
  return absl::OkStatus();
}

void Connection::OnReadDeadline() {
  if (phase_ == Phase::kDraining || !request_begun_) return Close();
  const bool in_body = phase_ == Phase::kBody;
  RefuseEarly(error::RequestIncomplete(in_body ? state_.options.body_limit : state_.options.header_limit),
              /*body_follows=*/false);
}

// --- Answering -------------------------------------------------------------------------------------------

void Connection::OnRequest() {
  phase_ = Phase::kAnswering;
  read_timer_.Cancel();
  absl::StatusOr<Answer> answer = Answer();
  switch (target_->route) {
    case Route::kChatCompletions:
    case Route::kCompletions: {
      if (absl::Status status = StartGeneration(); !status.ok()) Refuse(status);
      return;
    }
    case Route::kTokenize:
      answer = AnswerTokenize();
      break;
    case Route::kDetokenize:
      answer = AnswerDetokenize();
      break;
    case Route::kModels:
      answer = ModelListAnswer(state_.generator.model_info());
      break;
    case Route::kModel:
      answer = ModelAnswer(state_.generator.model_info(), target_->model);
      break;
    case Route::kVersion:
      answer = VersionAnswer();
      break;
    case Route::kHealth:
      answer = HealthAnswer(state_.options.is_live());
      break;
    case Route::kReady:
      answer = HealthAnswer(!state_.draining && state_.options.is_ready() && state_.generator.ready());
      break;
  }
  if (!answer.ok()) return Refuse(answer.status());
  answer->headers.emplace_back("x-request-id", request_id_);
  SendAnswer(*std::move(answer));
}

absl::StatusOr<Answer> Connection::AnswerTokenize() {
  ASSIGN_OR_RETURN(const nlohmann::ordered_json body, ParseJsonBody(parser_->get().body()));
  ASSIGN_OR_RETURN(const ParsedTokenize parsed, ParseTokenizeRequest(body));
  if (parsed.unknown_fields > 0) state_.observer.OnUnknownFields(parsed.unknown_fields);
  ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, state_.generator.Tokenize(parsed.request));
  return TokensAnswer(tokens, state_.generator.model_info().max_model_len);
}

absl::StatusOr<Answer> Connection::AnswerDetokenize() {
  ASSIGN_OR_RETURN(const nlohmann::ordered_json body, ParseJsonBody(parser_->get().body()));
  ASSIGN_OR_RETURN(const ParsedDetokenize request, ParseDetokenizeRequest(body));
  if (request.unknown_fields > 0) state_.observer.OnUnknownFields(request.unknown_fields);
  ASSIGN_OR_RETURN(const std::string text,
                   state_.generator.Detokenize(request.model, "tokens", request.tokens));
  return TextAnswer(text);
}

absl::Status Connection::StartGeneration() {
  ASSIGN_OR_RETURN(const nlohmann::ordered_json body, ParseJsonBody(parser_->get().body()));
  ASSIGN_OR_RETURN(ParsedGeneration parsed, target_->route == Route::kChatCompletions
                                                ? ParseChatRequest(body)
                                                : ParseCompletionRequest(body));
  if (parsed.unknown_fields > 0) state_.observer.OnUnknownFields(parsed.unknown_fields);
  parsed.request.request_id = request_id_;
  parsed.request.traceparent = std::string(View(parser_->get()["traceparent"]));
  parsed.request.tracestate = std::string(View(parser_->get()["tracestate"]));
  parser_->get().body() = std::string();  // up to 2 MiB that nobody needs while the answer runs
  // The batcher's thread may outlive this connection by a wake-up: it holds a weak reference.
  auto wake = [weak = weak_from_this(), strand = socket_.get_executor()] {
    asio::post(strand, [weak] {
      const std::shared_ptr<Connection> self = weak.lock();
      if (self == nullptr || self->exchange_ == nullptr) return;
      self->Guard([&] { self->exchange_->OnWake(); });
    });
  };
  AnswerPort& port = *this;
  exchange_ = std::make_unique<GenerationExchange>(port, state_, socket_.get_executor(),
                                                   RouteName(target_->route), parsed, std::move(wake));
  return exchange_->Start(std::move(parsed.request));
}

void Connection::Refuse(const absl::Status& why) {
  exchange_.reset();
  state_.observer.OnRefused(target_ ? RouteName(target_->route) : "none", why);
  Answer answer = ErrorAnswer(why);
  answer.headers.emplace_back("x-request-id", request_id_);
  if (answer.status == 405 && parser_->is_header_done())
    answer.headers.emplace_back("Allow", AllowedMethod(View(parser_->get().target())));
  SendAnswer(std::move(answer));
}

void Connection::RefuseEarly(const absl::Status& why, bool body_follows) {
  const bool whole = parser_->is_done();
  phase_ = Phase::kAnswering;
  read_timer_.Cancel();
  if (!whole) keep_alive_ = false;
  drain_after_ = body_follows;
  Refuse(why);
}

void Connection::SendAnswer(Answer answer) {
  if (state_.draining) keep_alive_ = false;
  state_.observer.OnAnswer(target_ ? RouteName(target_->route) : "none", answer.status);
  answer_begun_ = answer_complete_ = true;
  Write(
      AnswerHead(answer, Framing::kLength, answer.body.size(), keep_alive_, state_.options.clock->WallNow()) +
      answer.body);
}

void Connection::BeginStream(Answer head) {
  state_.observer.OnAnswer(RouteName(target_->route), head.status);
  answer_begun_ = true;
  chunked_ = parser_->get().version() >= 11;
  if (!chunked_ || state_.draining) keep_alive_ = false;
  Write(AnswerHead(head, chunked_ ? Framing::kChunked : Framing::kUntilClose, 0, keep_alive_,
                   state_.options.clock->WallNow()));
}

// What the kernel takes at once needs no completion, which would wake another thread for each token.
void Connection::SendStream(std::string_view bytes) {
  std::string framed = chunked_ ? Chunk(bytes) : std::string(bytes);
  if (phase_ == Phase::kClosed) return;
  if (!writing_) {
    error_code error;  // would block, or the client has gone: Write sees to either
    framed.erase(0, socket_.write_some(asio::buffer(framed), error));
  }
  if (!framed.empty()) Write(std::move(framed));
}

void Connection::EndStream(bool keep_alive) {
  if (!keep_alive || state_.draining) keep_alive_ = false;
  answer_complete_ = true;
  if (chunked_) return Write(kLastChunk);
  if (!writing_)
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      if (self->phase_ == Phase::kAnswering && self->answer_complete_ && !self->writing_)
        self->FinishAnswer();
    });
}

void Connection::Fail() { Abort(); }

// --- Writing ---------------------------------------------------------------------------------------------

void Connection::Write(std::string bytes) {
  if (phase_ == Phase::kClosed) return;
  if (writing_) {
    waiting_ += bytes;
    return;
  }
  sending_ = std::move(bytes);
  sent_ = 0;
  writing_ = true;
  write_timer_.Set(state_.options.write_stall);
  WriteSome();
}

void Connection::WriteSome() {
  socket_.async_write_some(asio::buffer(sending_.data() + sent_, sending_.size() - sent_),
                           [self = shared_from_this()](const error_code& error, size_t bytes) {
                             self->Guard([&] { self->OnWritten(error, bytes); });
                           });
}

void Connection::OnWritten(const error_code& error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  sent_ += bytes;
  if (sent_ == sending_.size() && !waiting_.empty()) {
    sending_ = std::exchange(waiting_, std::string());
    sent_ = 0;
  }
  if (sent_ < sending_.size()) {
    write_timer_.Set(state_.options.write_stall);
    return WriteSome();
  }
  writing_ = false;
  write_timer_.Cancel();
  sending_.clear();
  if (phase_ != Phase::kAnswering) return;
  if (answer_complete_) return FinishAnswer();
  if (exchange_ != nullptr) exchange_->OnWritten();
}

void Connection::OnWriteStall() {
  state_.observer.OnWriteStall();
  // What the kernel still holds for this client is of no use.
  const linger drop{.l_onoff = 1, .l_linger = 0};
  setsockopt(socket_.native_handle(), SOL_SOCKET, SO_LINGER, &drop, sizeof drop);
  Close();
}

void Connection::FinishAnswer() {
  exchange_.reset();
  if (drain_after_ && !peer_done_) return BeginDrain();
  if (!keep_alive_ || peer_done_ || state_.draining) return Close();
  BeginRequest(state_.options.idle_limit);
  Process();
  Read();
}

// Closing with unread bytes would reset the connection, and the client might never see its answer.
void Connection::BeginDrain() {
  phase_ = Phase::kDraining;
  error_code ignored;  // a peer that has gone shows up in the next read
  socket_.shutdown(Socket::shutdown_send, ignored);
  read_timer_.Set(state_.options.drain_limit);
  Process();
  Read();
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  const std::shared_ptr<Connection> self = shared_from_this();  // the server lets go of it below
  phase_ = Phase::kClosed;
  exchange_.reset();
  read_timer_.Cancel();
  write_timer_.Cancel();
  // Before the client can know: whoever sees the end may connect anew and must not meet the limit.
  state_.on_closed(id_);
  error_code ignored;  // nothing to do about a failing close
  socket_.close(ignored);
}

}  // namespace tandem::gateway::http
