#include "common/rpc/message_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <random>
#include <thread>

namespace tandem::rpc {
namespace {

using ::testing::HasSubstr;

struct Pair {
  std::unique_ptr<MessageSocket> verifier, drafter;
};

Pair Connected() {
  const auto listener = SocketListener::Create();
  EXPECT_TRUE(listener.ok()) << listener.status();
  auto drafter = MessageSocket::Connect((*listener)->address());
  EXPECT_TRUE(drafter.ok()) << drafter.status();
  auto verifier = (*listener)->Accept();
  EXPECT_TRUE(verifier.ok()) << verifier.status();
  return {*std::move(verifier), *std::move(drafter)};
}

bool AwaitEvent(const MessageSocket& socket, short event) {
  pollfd watch{socket.fd(), event, 0};
  const int ready = poll(&watch, 1, 20'000);
  EXPECT_EQ(ready, 1);
  return ready == 1;
}

std::string Await(MessageSocket& socket) {
  while (true) {
    const auto message = socket.Receive();
    EXPECT_TRUE(message.ok()) << message.status();
    if (!message.ok()) return "";
    if (*message) return std::string(**message);
    if (!AwaitEvent(socket, POLLIN)) return "";
  }
}

void FlushAll(MessageSocket& socket) {
  while (socket.sending() && AwaitEvent(socket, POLLOUT)) EXPECT_TRUE(socket.Flush().ok());
}

// A peer that speaks no protocol: one end is a plain descriptor.
struct Raw {
  Raw() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    fd = fds[0];
    socket = std::make_unique<MessageSocket>(fds[1]);
  }
  ~Raw() { close(fd); }
  void Write(const std::string& bytes) const {
    ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  int fd;
  std::unique_ptr<MessageSocket> socket;
};

std::string Length(uint32_t length) { return {reinterpret_cast<const char*>(&length), sizeof length}; }

TEST(MessageSocketTest, CarriesMessagesBothWaysInOrder) {
  Pair pair = Connected();
  EXPECT_FALSE(pair.drafter->Receive()->has_value());
  for (const char* message : {"one", "", "three"}) ASSERT_TRUE(pair.verifier->Send(message).ok());
  ASSERT_TRUE(pair.drafter->Send("answer").ok());
  EXPECT_FALSE(pair.drafter->buffered());
  EXPECT_EQ(Await(*pair.drafter), "one");
  EXPECT_TRUE(pair.drafter->buffered());  // read with the first; the descriptor is no longer ready
  EXPECT_EQ(Await(*pair.drafter), "");
  EXPECT_EQ(Await(*pair.drafter), "three");
  EXPECT_FALSE(pair.drafter->Receive()->has_value());
  EXPECT_EQ(Await(*pair.verifier), "answer");
}

TEST(MessageSocketTest, WhatDoesNotFitWaitsAndArrivesWhole) {
  Pair pair = Connected();
  std::string large(kMaxSocketMessageBytes, 'x');
  for (size_t i = 0; i < large.size(); i += 997) large[i] = static_cast<char>('a' + i % 26);
  ASSERT_TRUE(pair.verifier->Send(large).ok());
  EXPECT_TRUE(pair.verifier->sending());  // far more than a socket's buffer
  std::thread reader([&] {
    EXPECT_EQ(Await(*pair.drafter), large);
    EXPECT_EQ(Await(*pair.drafter), "behind");
  });
  FlushAll(*pair.verifier);
  EXPECT_TRUE(pair.verifier->Send("behind").ok());
  FlushAll(*pair.verifier);  // the socket may still be full
  reader.join();
  EXPECT_EQ(pair.verifier->Send(large + "x").code(), absl::StatusCode::kResourceExhausted);
}

TEST(MessageSocketTest, APeerThatHasGoneIsUnavailable) {
  Pair pair = Connected();
  ASSERT_TRUE(pair.drafter->Send("last words").ok());
  pair.drafter.reset();
  EXPECT_EQ(Await(*pair.verifier), "last words");
  EXPECT_EQ(pair.verifier->Receive().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(pair.verifier->Send("hello?").code(), absl::StatusCode::kUnavailable);  // and no SIGPIPE
}

TEST(MessageSocketTest, BytesMayComeOneByOne) {
  const Raw raw;
  for (const char byte : Length(3) + "abc") {
    EXPECT_FALSE(raw.socket->Receive()->has_value());
    raw.Write(std::string(1, byte));
  }
  EXPECT_EQ(Await(*raw.socket), "abc");
}

TEST(MessageSocketTest, ALengthAboveTheLimitIsRefusedBeforeAnythingOfItComes) {
  for (const uint32_t length : {uint32_t{kMaxSocketMessageBytes} + 1, uint32_t{0x80000000}, ~uint32_t{0}}) {
    const Raw raw;
    raw.Write(Length(length));
    const absl::Status status = raw.socket->Receive().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(length)));
  }
}

TEST(MessageSocketTest, TheLimitIsTheCreators) {
  const auto listener = SocketListener::Create();
  ASSERT_TRUE(listener.ok());
  const size_t limit = 2 * kMaxSocketMessageBytes;
  const auto sender = MessageSocket::Connect((*listener)->address(), limit);
  ASSERT_TRUE(sender.ok());
  const auto receiver = (*listener)->Accept(limit);
  ASSERT_TRUE(receiver.ok());
  const std::string large(limit, 'x');
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE((*sender)->Send(large).ok());
    std::thread reader([&] { EXPECT_EQ(Await(**receiver), large); });
    FlushAll(**sender);
    reader.join();
    EXPECT_FALSE((*receiver)->Receive()->has_value());
  }
  EXPECT_EQ((*sender)->Send(large + "x").code(), absl::StatusCode::kResourceExhausted);
  const uint32_t above = static_cast<uint32_t>(limit) + 1;
  ASSERT_EQ(write((*sender)->fd(), &above, sizeof above), static_cast<ssize_t>(sizeof above));
  EXPECT_EQ((*receiver)->Receive().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(MessageSocketTest, APartOfAMessageIsNone) {
  const Raw raw;
  raw.Write(Length(100) + "half");
  EXPECT_FALSE(raw.socket->Receive()->has_value());
  shutdown(raw.fd, SHUT_WR);
  EXPECT_EQ(raw.socket->Receive().status().code(), absl::StatusCode::kUnavailable);
}

TEST(MessageSocketTest, AnyBytesGiveMessagesWithinTheLimitOrAnError) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const Raw raw;
    for (int i = 0; i < 50; ++i) {
      std::string bytes(random() % 50, '\0');
      for (char& byte : bytes) byte = static_cast<char>(random() % (random() % 4 == 0 ? 256 : 3));
      raw.Write(bytes);
      const auto message = raw.socket->Receive();
      if (!message.ok()) break;
      EXPECT_LE(message->value_or("").size(), kMaxSocketMessageBytes);
    }
  }
}

TEST(SocketListenerTest, AddressesThatNoListenerMakesAreRefused) {
  const std::string hex(32, 'a'), nonce(kSocketNonceBytes, 'n');
  for (const SocketAddress& address : {SocketAddress{"", nonce},
                                       {"tandem-", nonce},
                                       {"tandem-" + hex + "a", nonce},
                                       {"other-" + hex, nonce},
                                       {"tandem-" + std::string(32, '/'), nonce},
                                       {"tandem-" + hex, "short"}}) {
    EXPECT_EQ(MessageSocket::Connect(address).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(MessageSocket::Connect({"tandem-" + hex, nonce}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(SocketListenerTest, OnlyWhoSendsTheNonceIsAccepted) {
  const auto listener = SocketListener::Create();
  ASSERT_TRUE(listener.ok());
  EXPECT_EQ((*listener)->Accept().status().code(), absl::StatusCode::kUnavailable);
  SocketAddress wrong = (*listener)->address();
  wrong.nonce[3] ^= 1;
  const auto intruder = MessageSocket::Connect(wrong);
  ASSERT_TRUE(intruder.ok());
  // One that says nothing at all.
  const int silent = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  std::memcpy(to.sun_path + 1, wrong.name.data(), wrong.name.size());
  ASSERT_EQ(connect(silent, reinterpret_cast<const sockaddr*>(&to),
                    static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + wrong.name.size())),
            0);
  const auto drafter = MessageSocket::Connect((*listener)->address());
  ASSERT_TRUE(drafter.ok());
  auto accepted = (*listener)->Accept();
  ASSERT_TRUE(accepted.ok()) << accepted.status();
  ASSERT_TRUE((*accepted)->Send("for you").ok());
  EXPECT_EQ(Await(**drafter), "for you");
  EXPECT_EQ((*intruder)->Receive().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ((*listener)->Accept().status().code(), absl::StatusCode::kUnavailable);
  close(silent);
}

TEST(SocketListenerTest, AFullBacklogIsAnErrorAndDoesNotBlock) {
  const auto listener = SocketListener::Create();
  ASSERT_TRUE(listener.ok());
  std::vector<std::unique_ptr<MessageSocket>> waiting;
  absl::Status status;
  while (status.ok() && waiting.size() < 1000) {
    auto socket = MessageSocket::Connect((*listener)->address());
    status = socket.status();
    if (socket.ok()) waiting.push_back(*std::move(socket));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tandem::rpc
