// Messages between the loop threads of two processes of one machine and user, through a Unix socket.
//
//   who dialled the stream: ASSIGN_OR_RETURN(auto listener, SocketListener::Create());   offers its address()
//   who took it:            ASSIGN_OR_RETURN(auto socket, MessageSocket::Connect(address));   says that it
//   has who dialled:            ASSIGN_OR_RETURN(auto socket, listener->Accept());           which does not
//   wait
//
// Both poll socket->fd() for reading, and for writing while socket->sending(). When it is ready they call
// Receive() once and then while socket->buffered(), and Flush().
//
// What it is for: the thread that computes sleeps on the socket itself, so a message wakes one thread, where
// a gRPC stream wakes one of gRPC's that wakes the loop's. The stream beside it says who the peer is and that
// it is gone, and carries everything if there is no socket.
//
// The name is in the abstract namespace (nothing is left behind by a kill) and random. Who connects must be
// of our user and send the nonce, which only the stream's other end has been told; others are turned away.
// Nothing blocks. A peer can send what it likes: a message has at most `max_message_bytes`, memory grows with
// what has come and not with what a length announces, and goes when a large message has.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::rpc {

inline constexpr size_t kSocketNonceBytes = 16;
inline constexpr size_t kMaxSocketMessageBytes = size_t{4} << 20;

struct SocketAddress {
  std::string name;   // "tandem-<32 hex digits>"
  std::string nonce;  // kSocketNonceBytes
};

// One end. Not thread-safe, but one thread may send while another receives.
class MessageSocket {
 public:
  // The address comes from a peer. kInvalidArgument for one that no listener makes; kFailedPrecondition if
  // another user listens; kUnavailable if nobody does, or who does has no room.
  static absl::StatusOr<std::unique_ptr<MessageSocket>> Connect(
      const SocketAddress& address, size_t max_message_bytes = kMaxSocketMessageBytes);
  // Takes the connected socket.
  explicit MessageSocket(int fd, size_t max_message_bytes = kMaxSocketMessageBytes);
  ~MessageSocket();
  MessageSocket(const MessageSocket&) = delete;

  int fd() const { return fd_; }

  // Sends what fits and keeps the rest. Requires !sending(): what is to be said meanwhile can be merged.
  // kUnavailable: the peer has gone; kResourceExhausted: the message is too long.
  absl::Status Send(std::string_view message);
  // Whether a part of a message waits for room.
  bool sending() const { return sent_ < unsent_.size(); }
  absl::Status Flush();

  // The next whole message, valid until the next call; nothing if it has not come yet. kUnavailable: the peer
  // has gone; kInvalidArgument: a message is too long.
  absl::StatusOr<std::optional<std::string_view>> Receive();
  // Whether Receive has something to say without a look at the descriptor, which polling does not show.
  bool buffered() const;

 private:
  using Length = uint32_t;  // before each message; in the machine's order of bytes

  std::string_view waiting() const { return std::string_view(received_).substr(taken_); }
  // Of the message that comes next, if that much of it is here.
  std::optional<size_t> NextLength() const;

  const int fd_;
  const size_t max_message_bytes_;
  std::string unsent_;  // from sent_ on not sent yet
  size_t sent_ = 0;
  std::vector<char> chunk_;  // what one system call reads
  std::string received_;     // from taken_ on not handed out yet
  size_t taken_ = 0;
};

class SocketListener {
 public:
  static absl::StatusOr<std::unique_ptr<SocketListener>> Create();
  ~SocketListener();
  SocketListener(const SocketListener&) = delete;

  const SocketAddress& address() const { return address_; }

  // The peer that has connected and sent the nonce. kUnavailable: there is none.
  absl::StatusOr<std::unique_ptr<MessageSocket>> Accept(size_t max_message_bytes = kMaxSocketMessageBytes);

 private:
  SocketListener(SocketAddress address, int fd) : address_(std::move(address)), fd_(fd) {}

  const SocketAddress address_;
  const int fd_;
};

}  // namespace tandem::rpc
