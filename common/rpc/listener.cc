#include "common/rpc/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/tcp.h>  // glibc's tcp_info ends before the bytes
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
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
#include <iterator>
#include <list>
#include <string>
#include <system_error>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "common/base/resident_bytes.h"
#include "common/base/status.h"

namespace tandem::rpc {
namespace {

constexpr int kBacklog = 512;
constexpr int kMinBackOffMs = 10, kMaxBackOffMs = 1000;
constexpr int kMaxDrops = 64;              // reads, of a connection that is cut
constexpr int64_t kTrimGrowth = 16 << 20;  // bytes: less is not worth the time

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

// As gRPC writes it; empty for others than TCP's.
std::string PeerName(int fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof name;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return "";
  char text[INET6_ADDRSTRLEN] = {};
  if (name.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(name);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return fmt::format("ipv4:{}:{}", text, ntohs(v4.sin_port));
  }
  if (name.ss_family != AF_INET6) return "";
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(name);
  if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    inet_ntop(AF_INET, &v6.sin6_addr.s6_addr[12], text, sizeof text);
    return fmt::format("ipv4:{}:{}", text, ntohs(v6.sin6_port));
  }
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  return fmt::format("ipv6:%5B{}%5D:{}", text, ntohs(v6.sin6_port));
}

// Of a TCP connection; empty peer if it is none, or has just ended.
ConnectionTraffic TrafficOf(int fd) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
  return {.peer = PeerName(fd),
          .bytes_received = info.tcpi_bytes_received,
          .bytes_taken = info.tcpi_bytes_acked,
          .has_waiting = info.tcpi_notsent_bytes > 0 || info.tcpi_unacked > 0};
}

// Ends it and drops what has arrived of it.
void CutConnection(int fd) {
  // Its owner's close then resets the connection; else the peer would go on sending into a full window.
  const linger drop{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &drop, sizeof drop);
  shutdown(fd, SHUT_RDWR);
  // What is on its way may still come in: no more than a receive buffer is worth waiting for.
  for (int i = 0; i < kMaxDrops && recv(fd, nullptr, 1 << 30, MSG_TRUNC | MSG_DONTWAIT) > 0; ++i) {
  }
}

// Resident beyond what is allocated: it grows with what the allocator keeps of memory that was freed, and not
// with memory in use, which may be freed any time later.
int64_t KeptBytes() {
  const struct mallinfo2 allocated = mallinfo2();
  return ResidentBytes() - static_cast<int64_t>(allocated.uordblks + allocated.hblkhd);
}

bool IsExhaustion(int error) {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

// The silent connections of all listeners, oldest first: descriptors are the process's, and so is their
// shortage.
class SilentConnections {
 public:
  void Add(int fd) {
    absl::MutexLock lock(&mu_);
    by_fd_[fd] = fds_.insert(fds_.end(), fd);
  }
  // Before it is closed or handed over.
  void Remove(int fd) {
    absl::MutexLock lock(&mu_);
    const auto found = by_fd_.find(fd);
    if (found == by_fd_.end()) return;
    fds_.erase(found->second);
    by_fd_.erase(found);
  }
  // Ends the oldest one, so that its listener closes it soon. Whether there was one.
  bool EndOldest() {
    absl::MutexLock lock(&mu_);
    if (fds_.empty()) return false;
    shutdown(fds_.front(), SHUT_RDWR);
    by_fd_.erase(fds_.front());
    fds_.pop_front();
    return true;
  }

 private:
  absl::Mutex mu_;
  std::list<int> fds_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<int, std::list<int>::iterator> by_fd_ ABSL_GUARDED_BY(mu_);
};

SilentConnections& AllSilent() {
  static auto* const all = new SilentConnections;
  return *all;
}

// Whether there are bytes to be read, without taking them.
bool HasSpoken(int fd) {
  char byte;
  return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
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
  const int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (stop_fd < 0 || epoll_fd < 0) {
    const absl::Status status = CannotListen(address);
    for (const int open : {fd, stop_fd, epoll_fd}) {
      if (open >= 0) close(open);
    }
    return status;
  }
  Address bound = address;
  if (!bound.is_unix()) bound.port = BoundPort(fd);
  return std::unique_ptr<Listener>(new Listener(std::move(bound), fd, stop_fd, epoll_fd));
}

Listener::~Listener() {
  Stop();
  close(stop_fd_);
  close(epoll_fd_);
}

void Listener::Start(Hooks hooks) {
  TANDEM_CHECK(!thread_.joinable() && fd_ >= 0);
  hooks_ = std::move(hooks);
  thread_ = std::thread([this] { Loop(); });
}

template <typename Use>
void Listener::ForEachConnection(const Use& use) const {
  std::error_code error;
  for (std::filesystem::directory_iterator fds("/proc/self/fd", error), end; !error && fds != end;
       fds.increment(error)) {
    int fd = -1;
    if (absl::SimpleAtoi(fds->path().filename().string(), &fd) && IsAcceptedAt(address_, fd)) use(fd);
  }
}

int Listener::num_connections() const {
  int count = 0;
  ForEachConnection([&](int) { ++count; });
  return count;
}

void Listener::Cut(const std::string& peer) const {
  ForEachConnection([&](int fd) {
    if (PeerName(fd) == peer) CutConnection(fd);
  });
}

void Listener::CutMisusedOnes() const {
  std::vector<ConnectionTraffic> connections;
  ForEachConnection([&](int fd) {
    if (silent_by_fd_.contains(fd)) return;
    ConnectionTraffic traffic = TrafficOf(fd);
    if (!traffic.peer.empty()) connections.push_back(std::move(traffic));
  });
  for (const std::string& peer : hooks_.misused(connections)) Cut(peer);
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
  const auto watch = [this](int fd) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    return epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0;
  };
  TANDEM_CHECK(watch(fd_) && watch(stop_fd_));
  back_off_ms_ = kMinBackOffMs;
  kept_bytes_ = KeptBytes();
  bool stopped = false;
  while (!stopped) {
    epoll_event events[64];
    const int count = epoll_wait(epoll_fd_, events, std::size(events), MillisecondsToDeadline());
    TANDEM_CHECK(count >= 0 || errno == EINTR);
    bool someone_connects = false;
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == stop_fd_) {
        stopped = true;
      } else if (fd == fd_) {
        someone_connects = true;
      } else {
        OnFirstByte(fd);
      }
    }
    CloseLateOnes();
    LookAround();
    if (someone_connects && !stopped) {
      if (const int connection = Accept(); connection >= 0) HandOverOrWait(connection);
    }
  }
  while (!silent_.empty()) CloseSilent(silent_.begin());
}

int Listener::Accept() {
  const int connection = accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (connection < 0) {
    if (!IsExhaustion(errno)) return -1;  // the peer left, or a signal
    hooks_.on_exhausted();
    // One that ends leaves room at once; else somebody else has to leave.
    WaitForStop(AllSilent().EndOldest() ? kMinBackOffMs : back_off_ms_);
    back_off_ms_ = std::min(2 * back_off_ms_, kMaxBackOffMs);
    return -1;
  }
  back_off_ms_ = kMinBackOffMs;
  look_at_ = std::min(look_at_, Clock::Real().Now() + kLookInterval);
  // The kernel hands out the lowest free number, so a high one means that all below are in use.
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || static_cast<rlim_t>(connection) < limit.rlim_cur / 5 * 4)
    return connection;
  hooks_.on_exhausted();
  if (AllSilent().EndOldest()) return connection;  // one more, one less
  close(connection);
  return -1;
}

void Listener::HandOverOrWait(int fd) {
  const int one = 1;
  if (!address_.is_unix()) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (hooks_.first_byte_limit == absl::ZeroDuration() || HasSpoken(fd)) return hooks_.on_connection(fd);
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
    hooks_.on_exhausted();
    close(fd);
    return;
  }
  silent_by_fd_[fd] = silent_.insert(silent_.end(), {fd, Clock::Real().Now() + hooks_.first_byte_limit});
  AllSilent().Add(fd);
}

void Listener::OnFirstByte(int fd) {
  const auto found = silent_by_fd_.find(fd);
  if (found == silent_by_fd_.end()) return;
  if (!HasSpoken(fd)) return CloseSilent(found->second);  // it has left
  AllSilent().Remove(fd);
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
  silent_.erase(found->second);
  silent_by_fd_.erase(found);
  hooks_.on_connection(fd);
}

void Listener::CloseSilent(std::list<Silent>::iterator silent) {
  AllSilent().Remove(silent->fd);
  close(silent->fd);  // which takes it out of epoll, too
  silent_by_fd_.erase(silent->fd);
  silent_.erase(silent);
}

void Listener::CloseLateOnes() {
  const absl::Duration now = silent_.empty() ? -absl::InfiniteDuration() : Clock::Real().Now();
  while (!silent_.empty() && silent_.front().deadline <= now) CloseSilent(silent_.begin());
}

void Listener::LookAround() {
  if (look_at_ == absl::InfiniteDuration() || Clock::Real().Now() < look_at_) return;
  if (hooks_.misused != nullptr) CutMisusedOnes();
  TrimMemory();
  look_at_ = num_connections() > 0 ? Clock::Real().Now() + kLookInterval : absl::InfiniteDuration();
}

// gRPC needs up to 60 MB for the pings of a single read buffer before it cuts their connection; malloc would
// keep them for good.
void Listener::TrimMemory() {
  if (KeptBytes() <= kept_bytes_ + kTrimGrowth) return;
  malloc_trim(0);
  kept_bytes_ = KeptBytes();
}

int Listener::MillisecondsToDeadline() const {
  const absl::Duration deadline = silent_.empty() ? look_at_ : std::min(look_at_, silent_.front().deadline);
  if (deadline == absl::InfiniteDuration()) return -1;
  const absl::Duration left = absl::Ceil(deadline - Clock::Real().Now(), absl::Milliseconds(1));
  return static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(left), 0, 60'000));
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
