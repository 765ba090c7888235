#include "common/telemetry/metrics_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <optional>
#include <thread>

#include "common/base/status.h"

namespace tandem::telemetry {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using boost::system::error_code;
using tcp = asio::ip::tcp;

constexpr int kMaxConnections = 64;
constexpr uint32_t kMaxHeaderBytes = 8 << 10;
constexpr auto kPatience = std::chrono::milliseconds(1500);
constexpr auto kAcceptBackOff = std::chrono::milliseconds(200);

// One request and its answer. Owned by the operation under way; runs on the server's thread.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, Metrics& metrics, prometheus::Gauge& gauge, int& num_connections)
      : stream_(std::move(socket)), metrics_(metrics), gauge_(gauge), num_connections_(num_connections) {
    ++num_connections_;
    parser_.header_limit(kMaxHeaderBytes);
    parser_.body_limit(0);
  }
  ~Connection() { --num_connections_; }

  void Read() {
    stream_.expires_after(kPatience);
    http::async_read(stream_, buffer_, parser_, [self = shared_from_this()](error_code error, size_t) {
      if (!error) self->Answer();
    });
  }

 private:
  void Answer() {
    const auto& request = parser_.get();
    const auto target = request.target();
    const bool found = target == "/metrics" || target.starts_with("/metrics?");
    response_.version(request.version());
    response_.keep_alive(false);
    response_.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    if (!found) {
      response_.result(http::status::not_found);
      response_.body() = "not found\n";
    } else if (request.method() != http::verb::get && request.method() != http::verb::head) {
      response_.result(http::status::method_not_allowed);
      response_.set(http::field::allow, "GET, HEAD");
      response_.body() = "method not allowed\n";
    } else {
      response_.result(http::status::ok);
      gauge_.Set(num_connections_);
      response_.body() = metrics_.Scrape();
    }
    response_.prepare_payload();
    if (request.method() == http::verb::head) response_.body().clear();
    stream_.expires_after(kPatience);
    http::async_write(stream_, response_, [self = shared_from_this()](error_code, size_t) {
      error_code ignored;  // the peer may have gone
      self->stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    });
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{kMaxHeaderBytes};
  http::request_parser<http::empty_body> parser_;
  http::response<http::string_body> response_;
  Metrics& metrics_;
  prometheus::Gauge& gauge_;
  int& num_connections_;
};

class BeastMetricsServer : public MetricsServer {
 public:
  explicit BeastMetricsServer(Metrics& metrics)
      : metrics_(metrics),
        gauge_(metrics.AddGauge("open_connections", "Client connections", {{"listener", "metrics"}})) {}

  ~BeastMetricsServer() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Listen(const Address& address) {
    if (address.is_unix()) return InvalidArgument("metrics need a TCP address, got {}", address.ToString());
    error_code error;
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(address.host, std::to_string(address.port),
                                        tcp::resolver::passive | tcp::resolver::numeric_service, error);
    if (error) return Cause("cannot resolve", address, error);
    const tcp::endpoint endpoint = *found.begin();
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(128, error);
    if (error) return Cause("cannot listen on", address, error);
    address_ = address;
    address_.port = acceptor_.local_endpoint().port();
    Accept();
    thread_ = std::thread([this] { io_.run(); });
    return absl::OkStatus();
  }

  const Address& address() const override { return address_; }

 private:
  static absl::Status Cause(const char* what, const Address& address, const error_code& error) {
    return Unavailable("{} metrics address {}: {}", what, address.ToString(), error.message());
  }

  void Accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (error && error != asio::error::connection_aborted) {
        // No descriptors or memory: the backlog holds them until some are free again.
        back_off_.expires_after(kAcceptBackOff);
        back_off_.async_wait([this](error_code) { Accept(); });
        return;
      }
      if (!error && num_connections_ < kMaxConnections) {
        std::make_shared<Connection>(std::move(socket), metrics_, gauge_, num_connections_)->Read();
      }
      Accept();
    });
  }

  Metrics& metrics_;
  prometheus::Gauge& gauge_;
  Address address_;
  int num_connections_ = 0;  // before io_, whose end destroys the connections
  asio::io_context io_{1};
  tcp::acceptor acceptor_{io_};
  asio::steady_timer back_off_{io_};
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const Address& address,
                                                                    Metrics& metrics) {
  auto server = std::make_unique<BeastMetricsServer>(metrics);
  RETURN_IF_ERROR(server->Listen(address));
  return server;
}

}  // namespace tandem::telemetry
