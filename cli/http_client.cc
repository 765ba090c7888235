#include "cli/http_client.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <utility>

#include "cli/event_stream.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using tcp = asio::ip::tcp;

constexpr uint64_t kMaxAnswerBytes = 256 << 20;

absl::Status ToStatus(const beast::error_code& error, const std::string& what) {
  if (error == beast::error::timeout) return absl::DeadlineExceededError(what + ": timeout");
  return Unavailable("{}: {}", what, error.message());
}

}  // namespace

// Beast's timeouts act on asynchronous operations only: each step is started, then run to its end here.
struct HttpClient::Connection {
  asio::io_context io;
  beast::tcp_stream stream{io};
  beast::flat_buffer buffer;

  template <typename Start>
  beast::error_code Do(absl::Duration timeout, Start start) {
    beast::error_code result;
    stream.expires_after(absl::ToChronoMilliseconds(timeout));
    start([&result](const beast::error_code& error, auto&&...) { result = error; });
    io.restart();
    io.run();
    return result;
  }
};

HttpClient::HttpClient(Address server, absl::Duration timeout)
    : server_(std::move(server)), timeout_(timeout) {}
HttpClient::~HttpClient() = default;

absl::StatusOr<HttpClient::Connection*> HttpClient::Open() {
  if (connection_ != nullptr) return connection_.get();
  if (server_.is_unix()) return InvalidArgument("{}: HTTP needs HOST:PORT", server_.ToString());
  auto connection = std::make_unique<Connection>();
  beast::error_code error;
  tcp::resolver resolver(connection->io);
  const auto endpoints = resolver.resolve(server_.host, std::to_string(server_.port), error);
  if (error) return ToStatus(error, "resolve " + server_.host);
  error = connection->Do(timeout_,
                         [&](auto done) { connection->stream.async_connect(endpoints, std::move(done)); });
  if (error) return ToStatus(error, "connect to " + server_.ToString());
  connection->stream.socket().set_option(tcp::no_delay(true), error);
  connection_ = std::move(connection);
  return connection_.get();
}

namespace {

http::request<http::string_body> MakeRequest(http::verb verb, const Address& server, const std::string& path,
                                             const nlohmann::json* body) {
  http::request<http::string_body> request(verb, path, 11);
  request.set(http::field::host, server.ToString());
  request.set(http::field::user_agent, "tandem/" TANDEM_VERSION);
  if (body != nullptr) {
    request.set(http::field::content_type, "application/json");
    request.body() = body->dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  request.prepare_payload();
  return request;
}

}  // namespace

absl::StatusOr<HttpAnswer> HttpClient::Get(const std::string& path) {
  return Ask(http::verb::get, path, nullptr);
}

absl::StatusOr<HttpAnswer> HttpClient::Post(const std::string& path, const nlohmann::json& body) {
  return Ask(http::verb::post, path, &body);
}

absl::StatusOr<HttpAnswer> HttpClient::Ask(boost::beast::http::verb verb, const std::string& path,
                                           const nlohmann::json* body) {
  ASSIGN_OR_RETURN(Connection * connection, Open());
  const auto request = MakeRequest(verb, server_, path, body);
  beast::error_code error = connection->Do(
      timeout_, [&](auto done) { http::async_write(connection->stream, request, std::move(done)); });
  http::response_parser<http::string_body> parser;
  parser.body_limit(kMaxAnswerBytes);
  if (!error) {
    error = connection->Do(timeout_, [&](auto done) {
      http::async_read(connection->stream, connection->buffer, parser, std::move(done));
    });
  }
  if (error || !parser.keep_alive()) connection_.reset();
  if (error) return ToStatus(error, path);
  return HttpAnswer{static_cast<int>(parser.get().result_int()), std::move(parser.get().body())};
}

absl::Status HttpClient::Stream(const std::string& path, const nlohmann::json& body,
                                const std::function<bool(std::string_view data)>& on_data) {
  ASSIGN_OR_RETURN(Connection * connection, Open());
  const std::string what = "POST " + path;
  const auto request = MakeRequest(http::verb::post, server_, path, &body);
  beast::error_code error = connection->Do(
      timeout_, [&](auto done) { http::async_write(connection->stream, request, std::move(done)); });
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(kMaxAnswerBytes);
  if (!error) {
    error = connection->Do(timeout_, [&](auto done) {
      http::async_read_header(connection->stream, connection->buffer, parser, std::move(done));
    });
  }
  if (error) {
    connection_.reset();
    return ToStatus(error, what);
  }
  const int status = static_cast<int>(parser.get().result_int());
  EventStream events;
  std::string other_body;
  char chunk[16384];
  bool done = false;
  while (!parser.is_done()) {
    parser.get().body().data = chunk;
    parser.get().body().size = sizeof(chunk);
    error = connection->Do(timeout_, [&](auto handler) {
      http::async_read_some(connection->stream, connection->buffer, parser, std::move(handler));
    });
    if (error == http::error::need_buffer) error = {};
    if (error) {
      connection_.reset();
      return ToStatus(error, what);
    }
    const std::string_view bytes(chunk, sizeof(chunk) - parser.get().body().size);
    if (status != 200) {
      other_body.append(bytes);
      continue;
    }
    bool go_on = true;
    events.Push(bytes, [&](std::string_view data) {
      if (!go_on) return;
      if (data == "[DONE]") {
        done = true;
      } else {
        go_on = on_data(data);
      }
    });
    if (!go_on) {
      connection_.reset();
      return absl::OkStatus();
    }
  }
  if (!parser.keep_alive()) connection_.reset();
  if (status != 200) return Unavailable("HTTP {}: {}", status, ErrorMessage({status, other_body}));
  if (!done) return Unavailable("{}: the stream ended without [DONE]", what);
  return absl::OkStatus();
}

std::string ErrorMessage(const HttpAnswer& answer) {
  const auto json = nlohmann::json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("error") && json["error"].is_object() &&
      json["error"].contains("message") && json["error"]["message"].is_string()) {
    return json["error"]["message"].get<std::string>();
  }
  return answer.body.substr(0, 200);
}

}  // namespace tandem::cli
