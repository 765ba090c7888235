#include "common/rpc/listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/numbers.h"
#include "common/base/status.h"

namespace tandem::rpc {
namespace {

constexpr int kBacklog = 512;
constexpr int kMinBackOffMs = 10, kMaxBackOffMs = 1000;

absl::Status CannotListen(const Address& address, const std::string& cause) {
  return Unavailable("cannot listen on {}: {}", address.ToString(), cause);
}
absl::Status CannotListen(const Address& address) { return CannotListen(address, std::strerror(errno)); }

int NewSocket(int family) { return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

sockaddr_un UnixSocketAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), std::min(path.size(), sizeof address.sun_path - 1));
  return address;
}

// Removes a socket file left behind by a process that is gone; leaves everything else alone.
void RemoveStaleSocket(const std::string& path) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  const int probe = NewSocket(AF_UNIX);
  if (probe < 0) return;
  const sockaddr_un address = UnixSocketAddress(path);
  const bool refused = connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
                       errno == ECONNREFUSED;
  close(probe);
  if (refused) unlink(path.c_str());
}

absl::StatusOr<int> ListenUnix(const Address& address) {
  RemoveStaleSocket(address.unix_path);
  const int fd = NewSocket(AF_UNIX);
  if (fd < 0) return CannotListen(address);
  const sockaddr_un name = UnixSocketAddress(address.unix_path);
  // The mode before bind decides the file's, so there is no moment when others may connect.
  if (fchmod(fd, 0600) != 0 || bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0 ||
      chmod(address.unix_path.c_str(), 0600) != 0 || listen(fd, kBacklog) != 0) {
    const absl::Status status = CannotListen(address);
    close(fd);
    return status;
  }
  return fd;
}

absl::StatusOr<int> ListenTcp(const Address& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  const int fd = NewSocket(found->ai_family);
  if (fd < 0) return CannotListen(address);
  const int one = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
      bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, kBacklog) != 0) {
    const absl::Status status = CannotListen(address);
    close(fd);
    return status;
  }
  return fd;
}

uint16_t BoundPort(int fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return 0;
  return ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(name).sin6_port
                                          : reinterpret_cast<const sockaddr_in&>(name).sin_port);
}

// Whether the descriptor is a socket that was accepted at `address`: it has the listener's own local name,
// which no connection that we opened has.
bool IsAcceptedAt(const Address& address, int fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0)
    return false;  // a file, or just closed
  int listens = 0;
  socklen_t listens_size = sizeof listens;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) != 0 || listens != 0) return false;
  if (address.is_unix()) {
    return name.ss_family == AF_UNIX &&
           address.unix_path == reinterpret_cast<const sockaddr_un&>(name).sun_path;
  }
  return (name.ss_family == AF_INET || name.ss_family == AF_INET6) && BoundPort(fd) == address.port;
}

bool IsExhaustion(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Bind(const Address& address, bool insecure) {
  if (!address.is_local() && !insecure) {
    return InvalidArgument(
        "{} is reachable from other machines without TLS; listen on loopback, or set --insecure",
        address.ToString());
  }
  ASSIGN_OR_RETURN(const int fd, address.is_unix() ? ListenUnix(address) : ListenTcp(address));
  const int stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stop_fd < 0) {
    close(fd);
    return CannotListen(address);
  }
  Address bound = address;
  if (!bound.is_unix()) bound.port = BoundPort(fd);
  return std::unique_ptr<Listener>(new Listener(std::move(bound), fd, stop_fd));
}

Listener::~Listener() {
  Stop();
  close(stop_fd_);
}

void Listener::Start(Hooks hooks) {
  TANDEM_CHECK(!thread_.joinable() && fd_ >= 0);
  hooks_ = std::move(hooks);
  thread_ = std::thread([this] { Loop(); });
}

int Listener::num_connections() const {
  int count = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator fds("/proc/self/fd", error), end; !error && fds != end;
       fds.increment(error)) {
    int fd = -1;
    if (absl::SimpleAtoi(fds->path().filename().string(), &fd)) count += IsAcceptedAt(address_, fd);
  }
  return count;
}

void Listener::Stop() {
  const uint64_t one = 1;
  TANDEM_CHECK(write(stop_fd_, &one, sizeof one) == sizeof one);
  if (thread_.joinable()) thread_.join();
  if (fd_ < 0) return;
  close(fd_);
  fd_ = -1;
  if (address_.is_unix()) unlink(address_.unix_path.c_str());
}

void Listener::Loop() {
  int back_off_ms = kMinBackOffMs;
  pollfd fds[2] = {{fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (true) {
    if (poll(fds, 2, -1) < 0) {
      TANDEM_CHECK(errno == EINTR);
      continue;
    }
    if (fds[1].revents != 0) return;
    const int connection = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection < 0) {
      if (!IsExhaustion(errno)) continue;  // the peer left, or a signal
      hooks_.on_exhausted();
      if (WaitForStop(back_off_ms)) return;
      back_off_ms = std::min(2 * back_off_ms, kMaxBackOffMs);
      continue;
    }
    back_off_ms = kMinBackOffMs;
    // The kernel hands out the lowest free number, so a high one means that all below are in use.
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && static_cast<rlim_t>(connection) >= limit.rlim_cur / 5 * 4) {
      close(connection);
      hooks_.on_exhausted();
      continue;
    }
    const int one = 1;
    if (!address_.is_unix()) setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    hooks_.on_connection(connection);
  }
}

bool Listener::WaitForStop(int milliseconds) {
  pollfd stop{stop_fd_, POLLIN, 0};
  return poll(&stop, 1, milliseconds) > 0;
}

int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  if (limit.rlim_cur < limit.rlim_max) {
    rlimit raised = limit;
    raised.rlim_cur = raised.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  return static_cast<int64_t>(limit.rlim_cur);
}

}  // namespace tandem::rpc
