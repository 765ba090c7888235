#include "gateway/http/http_server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/rpc/listener.h"
#include "gateway/http/beast.h"
#include "gateway/http/connection.h"
#include "gateway/http/server_state.h"

namespace tandem::gateway::http {

namespace asio = boost::asio;

class HttpServer::Impl {
 public:
  Impl(Options options, Generator& generator, DoorObserver& observer, std::unique_ptr<rpc::Listener> listener)
      : state_{.options = std::move(options),
               .generator = generator,
               .observer = observer,
               .on_closed = [this](int64_t id) { Forget(id); }},
        listener_(std::move(listener)),
        address_(listener_->address()),
        work_(io_.get_executor()) {}

  void Start() {
    for (int i = 0; i < state_.options.threads; ++i) threads_.emplace_back([this] { Run(); });
    listener_->Start({.on_connection = [this](int fd) { Accept(fd); },
                      .on_exhausted = [this] { state_.observer.OnExhausted(); },
                      .first_byte_limit = state_.options.header_limit});
  }

  const Address& address() const { return address_; }
  int open_streams() const { return state_.open_streams; }

  void StopAccepting() {
    state_.draining = true;
    listener_->Stop();
    absl::MutexLock lock(&mu_);
    for (const auto& [id, connection] : connections_) connection->Drain();
  }

  // Refuse, let finish, cut, join: in this order, so that nothing new comes once the threads end.
  void Shutdown(absl::Duration patience) {
    absl::MutexLock shutdown_lock(&shutdown_mu_);
    if (threads_.empty()) return;
    StopAccepting();
    {
      absl::MutexLock lock(&mu_);
      const auto none_left = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return connections_.empty(); };
      if (!mu_.AwaitWithTimeout(absl::Condition(&none_left), patience)) {
        for (const auto& [id, connection] : connections_) connection->Abort();
        mu_.Await(absl::Condition(&none_left));
      }
    }
    work_.reset();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  // Connections let nothing out that concerns an answer; what still comes here, say of a ping, costs no more.
  void Run() {
    while (true) {
      try {
        io_.run();
        return;
      } catch (...) {
      }
    }
  }

  // On the listener's thread.
  void Accept(int fd) {
    if (state_.options.socket_send_bytes > 0) {
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &state_.options.socket_send_bytes, sizeof(int));
    }
    const int family = address_.is_unix() ? AF_UNIX : FamilyOf(fd);
    boost::system::error_code error;
    Connection::Socket socket(asio::make_strand(io_));
    socket.assign(asio::generic::stream_protocol(family, 0), fd, error);
    if (error) {
      close(fd);
      return state_.observer.OnExhausted();  // epoll takes no more
    }
    socket.non_blocking(true, error);
    if (error) return state_.observer.OnExhausted();
    std::shared_ptr<Connection> connection;
    int open = 0;
    {
      absl::MutexLock lock(&mu_);
      const int limit = state_.options.max_connections;
      if (limit == 0 || static_cast<int>(connections_.size()) < limit) {
        connection = std::make_shared<Connection>(std::move(socket), state_, ++last_id_);
        connections_[last_id_] = connection;
        open = static_cast<int>(connections_.size());
      }
    }
    if (connection == nullptr) return state_.observer.OnExhausted();  // closed with `socket`
    state_.observer.OnConnections(open);
    connection->Start();
  }

  static int FamilyOf(int fd) {
    sockaddr_storage name{};
    socklen_t size = sizeof name;
    return getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) == 0 ? name.ss_family : AF_INET;
  }

  void Forget(int64_t id) {
    std::shared_ptr<Connection> last;  // released after the lock
    absl::MutexLock lock(&mu_);
    const auto found = connections_.find(id);
    last = std::move(found->second);
    connections_.erase(found);
    state_.observer.OnConnections(static_cast<int>(connections_.size()));
  }

  // Sockets and timers go back to the io_context, so it goes last.
  asio::io_context io_;
  ServerState state_;
  const std::unique_ptr<rpc::Listener> listener_;
  const Address address_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  absl::Mutex shutdown_mu_;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(shutdown_mu_);
  absl::Mutex mu_;
  std::map<int64_t, std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mu_);
  int64_t last_id_ ABSL_GUARDED_BY(mu_) = 0;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() { Shutdown(absl::ZeroDuration()); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(Options options, Generator& generator,
                                                              DoorObserver& observer) {
  if (!options.listen.is_local() && !options.insecure)
    return InvalidArgument("{} is reachable from other machines and HTTP has no TLS here: needs insecure",
                           options.listen.ToString());
  ASSIGN_OR_RETURN(std::unique_ptr<rpc::Listener> listener,
                   rpc::Listener::Bind(options.listen, options.insecure));
  return Start(std::move(options), std::move(listener), generator, observer);
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(Options options,
                                                              std::unique_ptr<rpc::Listener> listener,
                                                              Generator& generator, DoorObserver& observer) {
  if (options.threads < 1) return InvalidArgument("threads must be at least 1, got {}", options.threads);
  auto impl = std::make_unique<Impl>(std::move(options), generator, observer, std::move(listener));
  impl->Start();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

const Address& HttpServer::address() const { return impl_->address(); }
void HttpServer::StopAccepting() { impl_->StopAccepting(); }
void HttpServer::Shutdown(absl::Duration patience) { impl_->Shutdown(patience); }
int HttpServer::open_streams() const { return impl_->open_streams(); }

}  // namespace tandem::gateway::http
