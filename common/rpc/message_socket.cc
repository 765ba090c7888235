#include "common/rpc/message_socket.h"

#include <openssl/rand.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "common/base/status.h"

namespace tandem::rpc {
namespace {

constexpr std::string_view kPrefix = "tandem-";
constexpr size_t kNameBytes = 16;  // random, in hex
constexpr size_t kReadBytes = size_t{64} << 10;
// What a buffer may keep of its memory from one message to the next.
constexpr size_t kKeptBytes = size_t{256} << 10;
// Those who connect before the peer does; more are refused by the kernel.
constexpr int kBacklog = 8;

std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  TANDEM_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) == 1);
  return bytes;
}

bool IsListenersName(std::string_view name) {
  if (name.substr(0, kPrefix.size()) != kPrefix) return false;
  name.remove_prefix(kPrefix.size());
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return name.size() == 2 * kNameBytes && std::ranges::all_of(name, is_hex);
}

// Of the abstract namespace: a zero byte, then the name, no end.
std::pair<sockaddr_un, socklen_t> ToSockaddr(const std::string& name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  TANDEM_CHECK(name.size() < sizeof address.sun_path);
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  return {address, static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size())};
}

absl::Status CheckUser(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return Unavailable("the socket's peer cannot be told: {}", std::strerror(errno));
  if (peer.uid != geteuid())
    return FailedPrecondition("the socket's peer is user {}, we are {}", peer.uid, geteuid());
  return absl::OkStatus();
}

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK; }

// How many bytes went out; 0 if there is no room.
absl::StatusOr<size_t> SendSome(int fd, std::span<iovec> parts) {
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  while (true) {
    const ssize_t sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<size_t>(sent);
    if (errno == EINTR) continue;
    if (WouldBlock()) return size_t{0};
    return Unavailable("the socket cannot be written: {}", std::strerror(errno));
  }
}

// What has come, at most as much as `out` holds; nothing if that is nothing.
absl::StatusOr<std::string_view> ReceiveSome(int fd, std::span<char> out) {
  while (true) {
    const ssize_t got = recv(fd, out.data(), out.size(), MSG_DONTWAIT);
    if (got > 0) return std::string_view(out.data(), static_cast<size_t>(got));
    if (got == 0) return Unavailable("the peer has closed the socket");
    if (errno == EINTR) continue;
    if (WouldBlock()) return std::string_view();
    return Unavailable("the socket cannot be read: {}", std::strerror(errno));
  }
}

void Empty(std::string& buffer) {
  buffer.clear();
  if (buffer.capacity() > kKeptBytes) buffer.shrink_to_fit();
}

}  // namespace

absl::StatusOr<std::unique_ptr<MessageSocket>> MessageSocket::Connect(const SocketAddress& address,
                                                                      size_t max_message_bytes) {
  if (!IsListenersName(address.name) || address.nonce.size() != kSocketNonceBytes) {
    return InvalidArgument("socket must be {}<{} hex digits> with a nonce of {} bytes", kPrefix,
                           2 * kNameBytes, kSocketNonceBytes);
  }
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Unavailable("no socket: {}", std::strerror(errno));
  auto connected = std::make_unique<MessageSocket>(fd, max_message_bytes);
  const auto [to, size] = ToSockaddr(address.name);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), size) != 0)
    return Unavailable("socket {} cannot be reached: {}", address.name, std::strerror(errno));
  RETURN_IF_ERROR(CheckUser(fd));
  iovec nonce{const_cast<char*>(address.nonce.data()), address.nonce.size()};
  ASSIGN_OR_RETURN(const size_t sent, SendSome(fd, {&nonce, 1}));
  if (sent != address.nonce.size()) return Unavailable("socket {} has no room for a nonce", address.name);
  return connected;
}

MessageSocket::MessageSocket(int fd, size_t max_message_bytes)
    : fd_(fd), max_message_bytes_(max_message_bytes), chunk_(kReadBytes) {}

MessageSocket::~MessageSocket() { close(fd_); }

absl::Status MessageSocket::Send(std::string_view message) {
  TANDEM_CHECK(!sending());
  if (message.size() > max_message_bytes_) {
    return ResourceExhausted("a message must have at most {} bytes, it has {}", max_message_bytes_,
                             message.size());
  }
  auto length = static_cast<Length>(message.size());
  iovec parts[] = {{&length, sizeof length}, {const_cast<char*>(message.data()), message.size()}};
  ASSIGN_OR_RETURN(const size_t sent, SendSome(fd_, parts));
  if (sent == sizeof length + message.size()) return absl::OkStatus();
  unsent_.assign(reinterpret_cast<const char*>(&length), sizeof length);
  unsent_ += message;
  sent_ = sent;
  return absl::OkStatus();
}

absl::Status MessageSocket::Flush() {
  if (!sending()) return absl::OkStatus();
  iovec rest{unsent_.data() + sent_, unsent_.size() - sent_};
  ASSIGN_OR_RETURN(const size_t sent, SendSome(fd_, {&rest, 1}));
  sent_ += sent;
  if (!sending()) {
    Empty(unsent_);
    sent_ = 0;
  }
  return absl::OkStatus();
}

std::optional<size_t> MessageSocket::NextLength() const {
  Length length;
  if (waiting().size() < sizeof length) return std::nullopt;
  std::memcpy(&length, waiting().data(), sizeof length);
  return length;
}

bool MessageSocket::buffered() const {
  const std::optional<size_t> length = NextLength();
  return length && (*length > max_message_bytes_ || waiting().size() - sizeof(Length) >= *length);
}

absl::StatusOr<std::optional<std::string_view>> MessageSocket::Receive() {
  while (true) {
    if (buffered()) {
      const size_t length = *NextLength();
      if (length > max_message_bytes_)
        return InvalidArgument("a message must have at most {} bytes, got {}", max_message_bytes_, length);
      const std::string_view message = waiting().substr(sizeof(Length), length);
      taken_ += sizeof(Length) + length;
      return message;
    }
    if (taken_ == received_.size()) {
      Empty(received_);
    } else {
      received_.erase(0, taken_);
    }
    taken_ = 0;
    ASSIGN_OR_RETURN(const std::string_view got, ReceiveSome(fd_, chunk_));
    if (got.empty()) return std::nullopt;
    received_ += got;
  }
}

absl::StatusOr<std::unique_ptr<SocketListener>> SocketListener::Create() {
  SocketAddress address{std::string(kPrefix) + absl::BytesToHexString(RandomBytes(kNameBytes)),
                        RandomBytes(kSocketNonceBytes)};
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Unavailable("no socket: {}", std::strerror(errno));
  std::unique_ptr<SocketListener> listener(new SocketListener(std::move(address), fd));
  const auto [own, size] = ToSockaddr(listener->address_.name);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&own), size) != 0 || listen(fd, kBacklog) != 0)
    return Unavailable("socket {} cannot be made: {}", listener->address_.name, std::strerror(errno));
  return listener;
}

SocketListener::~SocketListener() { close(fd_); }

absl::StatusOr<std::unique_ptr<MessageSocket>> SocketListener::Accept(size_t max_message_bytes) {
  for (int i = 0; i <= kBacklog; ++i) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd < 0) break;
    auto socket = std::make_unique<MessageSocket>(fd, max_message_bytes);
    // Only the nonce's bytes: behind them may be a message.
    std::string nonce(kSocketNonceBytes, '\0');
    if (CheckUser(fd).ok() &&
        recv(fd, nonce.data(), nonce.size(), MSG_DONTWAIT) == static_cast<ssize_t>(nonce.size()) &&
        nonce == address_.nonce) {
      return socket;
    }
  }
  return Unavailable("nobody has connected to socket {} with its nonce", address_.name);
}

}  // namespace tandem::rpc
