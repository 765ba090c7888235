// A listening socket and the thread that accepts from it, for servers that take connections as descriptors.
//
//   ASSIGN_OR_RETURN(auto listener, Listener::Bind({"127.0.0.1", 0}));
//   listener->address();                                        // with the port in use
//   listener->Start({.on_connection = [&](int fd) { ... }});    // owns fd from here on
//
// Why not gRPC's own: once gRPC 1.51 has seen EMFILE it never accepts again, yet looks alive. Here running
// out of descriptors means waiting (10 ms to 1 s), while the backlog holds the peers. A connection whose
// descriptor lies in the top fifth of RLIMIT_NOFILE is closed at once, so that files and peers of our own can
// still be opened.
//
// With `first_byte_limit` a connection is handed over when its peer has sent something, and closed if it does
// not in time. Where descriptors run short the one that has been silent longest, of all listeners of the
// process, makes room: whoever only connects keeps nobody else out.
//
// While there are connections they are looked at every few seconds: `misused` says which of them to cut, and
// the allocator is asked to give back what it keeps of a flood.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/option_values.h"

namespace tandem::rpc {

// One TCP connection as the kernel counts it.
struct ConnectionTraffic {
  std::string peer;             // as gRPC writes it: "ipv4:127.0.0.1:5000"
  uint64_t bytes_received = 0;  // of the peer, since the beginning
  uint64_t bytes_taken = 0;     // by the peer
  bool has_waiting = false;     // something is to be sent that the peer has not taken
};

class Listener {
 public:
  struct Hooks {
    // A non-blocking, close-on-exec socket; the callee owns it. On the listener's thread.
    std::function<void(int fd)> on_connection;
    // accept failed for want of descriptors or memory, or a connection was closed to keep some free.
    std::function<void()> on_exhausted = [] {};
    // Zero: connections are handed over at once.
    absl::Duration first_byte_limit = absl::ZeroDuration();
    // Given all TCP connections that have been handed over and are still open, every kLookInterval; names the
    // peers of those to cut. Null: none is.
    std::function<std::vector<std::string>(std::span<const ConnectionTraffic>)> misused = nullptr;
  };
  static constexpr absl::Duration kLookInterval = absl::Seconds(1);

  // Binds and listens: peers can connect, and wait until Start. TCP port 0 = any. A Unix socket's file is
  // made with mode 0600; one that nobody listens on any more is replaced. kUnavailable with the cause.
  // An address that other machines reach is refused (kInvalidArgument) unless `insecure`: there is no TLS
  // yet.
  static absl::StatusOr<std::unique_ptr<Listener>> Bind(const Address& address, bool insecure = false);
  // Stops accepting, closes the socket and removes its file.
  ~Listener();
  Listener(const Listener&) = delete;

  const Address& address() const { return address_; }
  void Start(Hooks hooks);
  // Connections accepted at this address that are open now. Whoever took a descriptor does not tell when it
  // closes it, so the process's descriptors are looked through: for a scrape, not for each request.
  int num_connections() const;
  // Ends the connection from that peer, named as gRPC does ("ipv4:127.0.0.1:5000"), and drops what has
  // arrived of it. Not for Unix sockets, whose peers have no names.
  void Cut(const std::string& peer) const;
  // After it returns no hook is called; the socket is closed.
  void Stop();

 private:
  Listener(Address address, int fd, int stop_fd, int epoll_fd)
      : address_(std::move(address)), fd_(fd), stop_fd_(stop_fd), epoll_fd_(epoll_fd) {}
  // A connection whose peer has not said anything.
  struct Silent {
    int fd;
    absl::Duration deadline;  // Clock::Real(), as all times here
  };

  template <typename Use>
  void ForEachConnection(const Use& use) const;
  void Loop();
  bool WaitForStop(int milliseconds);
  // A new connection, or -1; waits where there is nothing left to make room with.
  int Accept();
  void HandOverOrWait(int fd);
  void OnFirstByte(int fd);
  void CloseSilent(std::list<Silent>::iterator silent);
  void CloseLateOnes();
  void LookAround();
  void CutMisusedOnes() const;
  void TrimMemory();
  int MillisecondsToDeadline() const;

  const Address address_;
  int fd_;
  const int stop_fd_;
  const int epoll_fd_;
  Hooks hooks_;
  std::thread thread_;
  // The thread's own.
  int back_off_ms_ = 0;
  std::list<Silent> silent_;  // by time
  std::unordered_map<int, std::list<Silent>::iterator> silent_by_fd_;
  absl::Duration look_at_ = absl::InfiniteDuration();  // only while there are connections
  int64_t kept_bytes_ = 0;                             // by the allocator, after the last trim
};

// Raises the soft limit of descriptors to the hard one; returns the limit in force.
int64_t RaiseDescriptorLimit();

}  // namespace tandem::rpc
