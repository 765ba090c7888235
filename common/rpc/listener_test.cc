#include "common/rpc/listener.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace tandem::rpc {
namespace {

using ::testing::HasSubstr;

int ConnectTcp(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

int ConnectUnix(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

std::string SocketPath(const char* name) {
  return ::testing::TempDir() + "/" + name + std::to_string(getpid());
}

TEST(Listener, HandsOverConnectionsAndTellsItsPort) {
  auto listener = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_NE((*listener)->address().port, 0);
  absl::Notification connected;
  (*listener)->Start({.on_connection = [&](int fd) {
    close(fd);
    connected.Notify();
  }});
  const int fd = ConnectTcp((*listener)->address().port);
  ASSERT_GE(fd, 0);
  EXPECT_TRUE(connected.WaitForNotificationWithTimeout(absl::Seconds(10)));
  close(fd);
}

TEST(Listener, CountsTheConnectionsThatAreStillOpen) {
  for (const Address& address : {Address{"127.0.0.1", 0, ""}, Address{"", 0, SocketPath("count")}}) {
    auto listener = Listener::Bind(address);
    ASSERT_TRUE(listener.ok()) << listener.status();
    auto other = Listener::Bind({"127.0.0.1", 0, ""});
    ASSERT_TRUE(other.ok()) << other.status();
    absl::Mutex mu;
    std::vector<int> accepted;
    (*listener)->Start({.on_connection = [&](int fd) {
      absl::MutexLock lock(&mu);
      accepted.push_back(fd);
    }});
    EXPECT_EQ((*listener)->num_connections(), 0);
    std::vector<int> peers;
    for (size_t i = 1; i <= 3; ++i) {
      peers.push_back(address.is_unix() ? ConnectUnix(address.unix_path)
                                        : ConnectTcp((*listener)->address().port));
      ASSERT_GE(peers.back(), 0);
      absl::MutexLock lock(&mu);
      const auto came = [&] { return accepted.size() == i; };
      ASSERT_TRUE(mu.AwaitWithTimeout(absl::Condition(&came), absl::Seconds(10)));
      EXPECT_EQ((*listener)->num_connections(), static_cast<int>(i));  // the peers' own ends do not count
    }
    EXPECT_EQ((*other)->num_connections(), 0);
    close(accepted[0]);
    EXPECT_EQ((*listener)->num_connections(), 2);
    for (const int fd : {accepted[1], accepted[2]}) close(fd);
    EXPECT_EQ((*listener)->num_connections(), 0);
    for (const int fd : peers) close(fd);
  }
}

TEST(Listener, HoldsPeersThatConnectBeforeStart) {
  auto listener = Listener::Bind({"localhost", 0, ""});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ((*listener)->address().host, "localhost");
  (*listener)->Stop();  // without a start
}

TEST(Listener, NamesTheCauseWhenItCannotBind) {
  auto first = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(first.ok());
  const auto second = Listener::Bind((*first)->address());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(second.status().message(), HasSubstr("Address already in use"));
  EXPECT_THAT(Listener::Bind({"192.0.2.1", 1, ""}, /*insecure=*/true).status().message(),
              HasSubstr("cannot listen on 192.0.2.1:1: Cannot assign"));
  EXPECT_THAT(Listener::Bind({"", 0, "/no/such/directory/s"}).status().message(), HasSubstr("No such file"));
}

TEST(Listener, RefusesToListenBeyondThisMachineUnlessTold) {
  const auto refused = Listener::Bind({"192.0.2.1", 1, ""});
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), HasSubstr("192.0.2.1:1 is reachable from other machines"));
}

TEST(Listener, TakesTheAddressAgainAfterItsEnd) {
  auto first = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(first.ok());
  const Address address = (*first)->address();
  (*first)->Start({.on_connection = [](int fd) { close(fd); }});
  const int fd = ConnectTcp(address.port);  // leaves a connection in TIME_WAIT
  char byte;
  EXPECT_EQ(read(fd, &byte, 1), 0);
  close(fd);
  first->reset();
  EXPECT_TRUE(Listener::Bind(address).ok());
}

TEST(Listener, UnixSocketIsPrivateReplacesAStaleFileAndIsRemoved) {
  const std::string path = SocketPath("listener");
  {  // what a killed process leaves
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::strncpy(name.sun_path, path.c_str(), sizeof name.sun_path - 1);
    ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&name), sizeof name), 0);
    close(fd);
  }
  {
    auto listener = Listener::Bind({"", 0, path});
    ASSERT_TRUE(listener.ok()) << listener.status();
    struct stat info {};
    ASSERT_EQ(stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    EXPECT_FALSE(Listener::Bind({"", 0, path}).ok()) << "a live socket must not be replaced";
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  std::ofstream(path) << "a file of somebody else";
  EXPECT_FALSE(Listener::Bind({"", 0, path}).ok());
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
}

TEST(Listener, AcceptsAgainAfterDescriptorsRanOut) {
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old_limit), 0);
  auto listener = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(listener.ok());
  const uint16_t port = (*listener)->address().port;
  std::vector<int> clients;
  for (int i = 0; i < 8; ++i) clients.push_back(ConnectTcp(port));

  // No descriptor left at all: accept fails with EMFILE.
  rlimit low = old_limit;
  low.rlim_cur = static_cast<rlim_t>(clients.back()) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  std::vector<int> fillers;
  for (int fd; (fd = dup(0)) >= 0;) fillers.push_back(fd);

  std::atomic<int> accepted{0};
  absl::Notification exhausted, all;
  (*listener)->Start({.on_connection =
                          [&](int fd) {
                            close(fd);
                            if (++accepted == 8) all.Notify();
                          },
                      .on_exhausted =
                          [&] {
                            if (!exhausted.HasBeenNotified()) exhausted.Notify();
                          }});
  EXPECT_TRUE(exhausted.WaitForNotificationWithTimeout(absl::Seconds(10)));
  EXPECT_EQ(accepted, 0);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old_limit), 0);
  EXPECT_TRUE(all.WaitForNotificationWithTimeout(absl::Seconds(10))) << accepted;
  for (const int fd : fillers) close(fd);
  for (const int fd : clients) close(fd);
}

TEST(Listener, ClosesConnectionsThatWouldTakeTheLastDescriptors) {
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old_limit), 0);
  auto listener = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(listener.ok());
  const int client = ConnectTcp((*listener)->address().port);
  rlimit low = old_limit;
  low.rlim_cur = static_cast<rlim_t>(client) + 3;  // the next descriptor lies above four fifths
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  absl::Notification exhausted;
  (*listener)->Start({.on_connection =
                          [](int fd) {
                            close(fd);
                            ADD_FAILURE() << "taken";
                          },
                      .on_exhausted = [&] { exhausted.Notify(); }});
  EXPECT_TRUE(exhausted.WaitForNotificationWithTimeout(absl::Seconds(10)));
  char byte;
  EXPECT_EQ(read(client, &byte, 1), 0);
  (*listener)->Stop();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old_limit), 0);
  close(client);
}

TEST(Listener, CutsTheConnectionOfOnePeer) {
  auto listener = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(listener.ok());
  absl::Mutex mu;
  std::vector<int> accepted;
  (*listener)->Start({.on_connection = [&](int fd) {
    absl::MutexLock lock(&mu);
    accepted.push_back(fd);
  }});
  const int bad = ConnectTcp((*listener)->address().port), good = ConnectTcp((*listener)->address().port);
  {
    absl::MutexLock lock(&mu);
    const auto came = [&] { return accepted.size() == 2; };
    ASSERT_TRUE(mu.AwaitWithTimeout(absl::Condition(&came), absl::Seconds(10)));
  }
  sockaddr_in own{};
  socklen_t size = sizeof own;
  ASSERT_EQ(getsockname(bad, reinterpret_cast<sockaddr*>(&own), &size), 0);
  (*listener)->Cut("ipv4:127.0.0.1:" + std::to_string(ntohs(own.sin_port)));
  char byte;
  EXPECT_EQ(read(bad, &byte, 1), 0);
  EXPECT_EQ(recv(good, &byte, 1, MSG_DONTWAIT), -1) << "still open, and silent";
  for (const int fd : accepted) close(fd);
  for (const int fd : {bad, good}) close(fd);
}

TEST(Listener, HandsOverWhoHasSpokenAndClosesWhoHasNot) {
  auto listener = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(listener.ok());
  std::atomic<int> accepted{0};
  absl::Notification first, second;
  (*listener)->Start({.on_connection =
                          [&](int fd) {
                            char byte = 0;
                            EXPECT_EQ(read(fd, &byte, 1), 1) << "nothing was taken from it";
                            EXPECT_EQ(byte, 'x');
                            close(fd);
                            (++accepted == 1 ? first : second).Notify();
                          },
                      .first_byte_limit = absl::Milliseconds(300)});
  const uint16_t port = (*listener)->address().port;
  const int silent = ConnectTcp(port), slow = ConnectTcp(port), gone = ConnectTcp(port);
  const int quick = ConnectTcp(port);
  ASSERT_EQ(write(quick, "x", 1), 1);
  EXPECT_TRUE(first.WaitForNotificationWithTimeout(absl::Seconds(10)));
  close(gone);
  ASSERT_EQ(write(slow, "x", 1), 1);
  EXPECT_TRUE(second.WaitForNotificationWithTimeout(absl::Seconds(10)));
  char byte;
  EXPECT_EQ(read(silent, &byte, 1), 0);
  EXPECT_EQ(accepted, 2);
  const int held = ConnectTcp(port);
  (*listener)->Stop();
  EXPECT_LE(read(held, &byte, 1), 0);
  for (const int fd : {silent, slow, quick, held}) close(fd);
}

TEST(Listener, SilentConnectionsMakeRoom) {
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old_limit), 0);
  auto listener = Listener::Bind({"127.0.0.1", 0, ""});
  ASSERT_TRUE(listener.ok());
  const uint16_t port = (*listener)->address().port;
  absl::Notification connected;
  (*listener)->Start({.on_connection =
                          [&](int fd) {
                            close(fd);
                            connected.Notify();
                          },
                      .first_byte_limit = absl::Hours(1)});
  std::vector<int> silent;
  for (int i = 0; i < 40; ++i) silent.push_back(ConnectTcp(port));
  while ((*listener)->num_connections() < 40) std::this_thread::yield();
  // From here on an accepted connection lies above four fifths, and below the end.
  const int next = dup(0);
  close(next);
  rlimit low = old_limit;
  low.rlim_cur = static_cast<rlim_t>(next) + 6;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const int good = ConnectTcp(port);
  ASSERT_GE(good, 0);
  ASSERT_EQ(write(good, "x", 1), 1);
  EXPECT_TRUE(connected.WaitForNotificationWithTimeout(absl::Seconds(10)));
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old_limit), 0);
  (*listener)->Stop();
  close(good);
  for (const int fd : silent) close(fd);
}

}  // namespace
}  // namespace tandem::rpc
