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
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "common/base/option_values.h"

namespace tandem::rpc {

class Listener {
 public:
  struct Hooks {
    // A non-blocking, close-on-exec socket; the callee owns it. On the listener's thread.
    std::function<void(int fd)> on_connection;
    // accept failed for want of descriptors or memory, or a connection was closed to keep some free.
    std::function<void()> on_exhausted = [] {};
  };

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
  // After it returns no hook is called; the socket is closed.
  void Stop();

 private:
  Listener(Address address, int fd, int stop_fd) : address_(std::move(address)), fd_(fd), stop_fd_(stop_fd) {}
  void Loop();
  bool WaitForStop(int milliseconds);

  const Address address_;
  int fd_;
  const int stop_fd_;
  Hooks hooks_;
  std::thread thread_;
};

// Raises the soft limit of descriptors to the hard one; returns the limit in force.
int64_t RaiseDescriptorLimit();

}  // namespace tandem::rpc
