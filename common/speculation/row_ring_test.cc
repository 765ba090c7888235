#include "common/speculation/row_ring.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "common/speculation/local_machine.h"

namespace tandem::speculation {
namespace {

using ::testing::HasSubstr;

std::vector<std::byte> Row(int64_t number, int64_t bytes) {
  std::vector<std::byte> row(bytes);
  for (int64_t i = 0; i < bytes; ++i) row[i] = static_cast<std::byte>(number * 31 + i);
  return row;
}

std::string PathOf(const RingAddress& address) { return "/dev/shm" + address.name; }

TEST(RowRing, RowsComeOutAsTheyWentInAlsoAcrossTheEnd) {
  auto writer = RowRingWriter::Create(5, 24);
  ASSERT_TRUE(writer.ok()) << writer.status();
  auto reader = RowRingReader::Open((*writer)->address());
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->nonce(), (*writer)->nonce());
  int64_t written = 0;
  for (int64_t first = 0; first < 40; first += 3) {
    for (; written < first + 3; ++written) ASSERT_TRUE((*writer)->Put(written, Row(written, 24)).ok());
    std::vector<std::byte> out(3 * 24);
    ASSERT_TRUE((*reader)->Read(first, 3, out).ok());
    for (int64_t i = 0; i < 3; ++i) {
      const std::vector<std::byte> row(out.begin() + i * 24, out.begin() + (i + 1) * 24);
      EXPECT_EQ(row, Row(first + i, 24)) << "row " << first + i;
    }
  }
}

TEST(RowRing, NoncesAndNamesDiffer) {
  auto a = RowRingWriter::Create(1, 8), b = RowRingWriter::Create(1, 8);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE((*a)->nonce(), (*b)->nonce());
  EXPECT_NE((*a)->address().name, (*b)->address().name);
}

TEST(RowRing, NothingIsLeftAfterUnlinkAndTheReaderGoesOn) {
  auto writer = RowRingWriter::Create(2, 8);
  ASSERT_TRUE(writer.ok());
  auto reader = RowRingReader::Open((*writer)->address());
  ASSERT_TRUE(reader.ok());
  EXPECT_TRUE(std::filesystem::exists(PathOf((*writer)->address())));
  (*writer)->Unlink();
  EXPECT_FALSE(std::filesystem::exists(PathOf((*writer)->address())));
  ASSERT_TRUE((*writer)->Put(1, Row(1, 8)).ok());
  std::vector<std::byte> out(8);
  ASSERT_TRUE((*reader)->Read(1, 1, out).ok());
  EXPECT_EQ(out, Row(1, 8));
}

TEST(RowRing, TheWritersEndRemovesTheName) {
  std::string path;
  {
    auto writer = RowRingWriter::Create(2, 8);
    ASSERT_TRUE(writer.ok());
    path = PathOf((*writer)->address());
    EXPECT_TRUE(std::filesystem::exists(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(RowRing, SizesOutOfRangeAreRefused) {
  const std::vector<std::pair<int64_t, int64_t>> sizes{
      {0, 8}, {8, 0}, {-1, 8}, {8, -1}, {kMaxRingBytes, 2}, {INT64_MAX, INT64_MAX}};
  for (const auto& [slots, row_bytes] : sizes) {
    EXPECT_EQ(RowRingWriter::Create(slots, row_bytes).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(RowRingReader::Open({"/tandem-1-0123456789abcdef", slots, row_bytes}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(RowRing, NamesThatNoWriterMakesAreNotOpened) {
  for (const char* name :
       {"", "/", "/etc/passwd", "/tandem-1", "/tandem-1-0123", "/tandem-x-0123456789abcdef",
        "/tandem-1-0123456789ABCDEF", "/../tandem-1-0123456789abcdef", "tandem-1-0123456789abcdef",
        "/tandem-99999999999-0123456789abcdef"}) {
    EXPECT_EQ(RowRingReader::Open({name, 1, 8}).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(RowRing, ARingOfAnotherSizeIsRefused) {
  auto writer = RowRingWriter::Create(4, 16);
  ASSERT_TRUE(writer.ok());
  RingAddress address = (*writer)->address();
  address.slots = 5;
  const absl::Status status = RowRingReader::Open(address).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("has 4160 bytes, 5 slots of 16 bytes need 4176"));
}

TEST(RowRing, ARingOpenToOthersIsRefused) {
  auto writer = RowRingWriter::Create(4, 16);
  ASSERT_TRUE(writer.ok());
  ASSERT_EQ(chmod(PathOf((*writer)->address()).c_str(), 0644), 0);
  EXPECT_EQ(RowRingReader::Open((*writer)->address()).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(RowRing, ARingWithoutItsPagesIsRefused) {
  const RingAddress address{"/tandem-" + std::to_string(getpid()) + "-00000000000000ab", 4, 4096};
  const int fd = shm_open(address.name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, 5 * 4096), 0);
  const absl::Status status = RowRingReader::Open(address).status();
  shm_unlink(address.name.c_str());
  close(fd);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("is not allocated"));
}

TEST(RowRing, TruncationWhileOpenIsAnErrorNotACrash) {
  auto writer = RowRingWriter::Create(4, 4096);
  ASSERT_TRUE(writer.ok());
  auto reader = RowRingReader::Open((*writer)->address());
  ASSERT_TRUE(reader.ok());
  ASSERT_EQ(truncate(PathOf((*writer)->address()).c_str(), 4096), 0);
  std::vector<std::byte> out(4096);
  const absl::Status status = (*reader)->Read(2, 1, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("shrunk"));
}

TEST(RowRing, AnotherProcessReadsWhatWeWrote) {
  auto writer = RowRingWriter::Create(8, 100);
  ASSERT_TRUE(writer.ok());
  int to_child[2], to_parent[2];
  ASSERT_EQ(pipe(to_child), 0);
  ASSERT_EQ(pipe(to_parent), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {  // no gtest here: the exit code speaks
    auto reader = RowRingReader::Open((*writer)->address());
    if (!reader.ok()) _exit(1);
    int64_t first = 0;
    for (char c; read(to_child[0], &c, 1) == 1 && c == 'r'; first += 5) {
      std::vector<std::byte> out(5 * 100);
      if (!(*reader)->Read(first, 5, out).ok()) _exit(2);
      for (int64_t i = 0; i < 5; ++i) {
        const std::vector<std::byte> row(out.begin() + i * 100, out.begin() + (i + 1) * 100);
        if (row != Row(first + i, 100)) _exit(3);
      }
      if (write(to_parent[1], "k", 1) != 1) _exit(4);
    }
    _exit(first == 50 ? 0 : 5);
  }
  for (int64_t first = 0; first < 50; first += 5) {
    for (int64_t i = 0; i < 5; ++i) ASSERT_TRUE((*writer)->Put(first + i, Row(first + i, 100)).ok());
    ASSERT_EQ(write(to_child[1], "r", 1), 1);
    char c;
    if (read(to_parent[0], &c, 1) != 1) break;
  }
  ASSERT_EQ(write(to_child[1], "q", 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  for (const int fd : {to_child[0], to_child[1], to_parent[0], to_parent[1]}) close(fd);
}

TEST(RowRing, RingsOfDeadMakersAreRemovedAndNoOthers) {
  auto ours = RowRingWriter::Create(1, 8);
  ASSERT_TRUE(ours.ok());
  int name_pipe[2];
  ASSERT_EQ(pipe(name_pipe), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto ring = RowRingWriter::Create(1, 8);
    if (!ring.ok()) _exit(1);
    const std::string name = (*ring)->address().name;
    if (write(name_pipe[1], name.data(), name.size()) != static_cast<ssize_t>(name.size())) _exit(2);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);  // only now is its id free
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  char name[128] = {};
  ASSERT_GT(read(name_pipe[0], name, sizeof name - 1), 0);
  close(name_pipe[0]);
  close(name_pipe[1]);
  const std::string left_behind = std::string("/dev/shm") + name;
  ASSERT_TRUE(std::filesystem::exists(left_behind));
  const std::string other = "/dev/shm/tandem-not-a-ring-" + std::to_string(getpid());
  std::ofstream(other) << "x";

  EXPECT_GE(RemoveStaleRings(), 1);
  EXPECT_FALSE(std::filesystem::exists(left_behind));
  EXPECT_TRUE(std::filesystem::exists(PathOf((*ours)->address())));
  EXPECT_TRUE(std::filesystem::exists(other));
  std::filesystem::remove(other);
}

TEST(RowRing, AMissingDirectoryHoldsNoStaleRings) { EXPECT_EQ(RemoveStaleRings("/no/such/directory"), 0); }

TEST(LocalMachine, SharesMemoryWithItselfAndNotWithoutABootId) {
  const LocalMachine machine = ReadLocalMachine();
  EXPECT_EQ(machine.uid, geteuid());
  EXPECT_TRUE(MayShareMemory(machine, machine));
  EXPECT_FALSE(MayShareMemory(machine, {machine.boot_id, machine.uid + 1}));
  EXPECT_FALSE(MayShareMemory(machine, {"another boot", machine.uid}));
  const LocalMachine unknown = ReadLocalMachine("/no/such/file");
  EXPECT_FALSE(MayShareMemory(unknown, unknown));
}

}  // namespace
}  // namespace tandem::speculation
