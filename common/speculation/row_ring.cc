#include "common/speculation/row_ring.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "common/base/status.h"

namespace tandem::speculation {
namespace {

constexpr std::string_view kPrefix = "tandem-";
constexpr size_t kRandomDigits = 16;
constexpr int64_t kHeaderBytes = 4096;
constexpr int64_t kStatBlockBytes = 512;  // of st_blocks, whatever the file system's own block is

absl::Status CheckSizes(const RingAddress& address) {
  if (address.slots < 1 || address.row_bytes < 1 || address.slots > kMaxRingBytes / address.row_bytes) {
    return InvalidArgument("a ring of {} slots of {} bytes: at least 1 of each, at most {} bytes in all",
                           address.slots, address.row_bytes, kMaxRingBytes);
  }
  return absl::OkStatus();
}

int64_t FileBytes(const RingAddress& address) { return kHeaderBytes + address.slots * address.row_bytes; }

// The maker's process id, if this is the name (without its slash) of a ring.
std::optional<pid_t> MakerOf(std::string_view name) {
  if (name.substr(0, kPrefix.size()) != kPrefix) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const size_t dash = name.find('-');
  if (dash == std::string_view::npos || name.size() - dash - 1 != kRandomDigits) return std::nullopt;
  const std::string_view digits = name.substr(0, dash), random = name.substr(dash + 1);
  const auto is_digit = [](unsigned char c) { return absl::ascii_isdigit(c); };
  const auto is_hex = [](unsigned char c) { return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f'); };
  if (digits.empty() || !std::ranges::all_of(digits, is_digit) || !std::ranges::all_of(random, is_hex))
    return std::nullopt;
  pid_t pid = 0;
  if (!absl::SimpleAtoi(std::string(digits), &pid) || pid <= 0) return std::nullopt;
  return pid;
}

std::string NewName() {
  uint64_t random = 0;
  TANDEM_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&random), sizeof random) == 1);
  return fmt::format("/{}{}-{:016x}", kPrefix, getpid(), random);
}

// All of `data` to `offset`, or why not.
absl::Status WriteAll(int fd, std::span<const std::byte> data, int64_t offset) {
  while (!data.empty()) {
    const ssize_t written = pwrite(fd, data.data(), data.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Unavailable("the ring cannot be written: {}", std::strerror(errno));
    data = data.subspan(written);
    offset += written;
  }
  return absl::OkStatus();
}

absl::Status ReadAll(int fd, std::span<std::byte> out, int64_t offset) {
  while (!out.empty()) {
    const ssize_t read = pread(fd, out.data(), out.size(), offset);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) return Unavailable("the ring cannot be read: {}", std::strerror(errno));
    if (read == 0) return Unavailable("the ring has shrunk: nothing at byte {}", offset);
    out = out.subspan(read);
    offset += read;
  }
  return absl::OkStatus();
}

absl::Status CheckObject(const struct stat& object, const RingAddress& address) {
  if (!S_ISREG(object.st_mode)) return FailedPrecondition("ring {} is not a memory object", address.name);
  if (object.st_uid != geteuid()) {
    return FailedPrecondition("ring {} belongs to user {}, we are {}", address.name, object.st_uid,
                              geteuid());
  }
  if ((object.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return FailedPrecondition("ring {} is open to other users (mode {:o})", address.name,
                              object.st_mode & 07777);
  }
  if (object.st_size != FileBytes(address)) {
    return FailedPrecondition("ring {} has {} bytes, {} slots of {} bytes need {}", address.name,
                              static_cast<int64_t>(object.st_size), address.slots, address.row_bytes,
                              FileBytes(address));
  }
  if (int64_t{object.st_blocks} * kStatBlockBytes < object.st_size) {
    return FailedPrecondition("ring {} is not allocated: {} of {} bytes", address.name,
                              int64_t{object.st_blocks} * kStatBlockBytes,
                              static_cast<int64_t>(object.st_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RowRingWriter>> RowRingWriter::Create(int64_t slots, int64_t row_bytes) {
  RingAddress address{NewName(), slots, row_bytes};
  RETURN_IF_ERROR(CheckSizes(address));
  const int fd = shm_open(address.name.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) return Unavailable("shared memory {} cannot be made: {}", address.name, std::strerror(errno));
  std::unique_ptr<RowRingWriter> ring(new RowRingWriter(std::move(address), fd));  // unlinks and closes
  if (const int error = posix_fallocate(fd, 0, FileBytes(ring->address_)); error != 0) {
    return ResourceExhausted("no shared memory for a ring of {} bytes: {}", FileBytes(ring->address_),
                             std::strerror(error));
  }
  TANDEM_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(ring->nonce_.data()), kRingNonceBytes) == 1);
  RETURN_IF_ERROR(WriteAll(fd, ring->nonce_, 0));
  return ring;
}

RowRingWriter::~RowRingWriter() {
  Unlink();
  close(fd_);
}

absl::Status RowRingWriter::Put(int64_t row_number, std::span<const std::byte> row) {
  TANDEM_CHECK(row_number >= 0 && static_cast<int64_t>(row.size()) == address_.row_bytes);
  return WriteAll(fd_, row, kHeaderBytes + row_number % address_.slots * address_.row_bytes);
}

void RowRingWriter::Unlink() {
  if (!linked_) return;
  linked_ = false;
  shm_unlink(address_.name.c_str());  // gone already: somebody tidied up, which is what is wanted
}

absl::StatusOr<std::unique_ptr<RowRingReader>> RowRingReader::Open(const RingAddress& address) {
  // Nothing but names that a writer makes reaches shm_open.
  if (address.name.empty() || address.name[0] != '/' ||
      !MakerOf(std::string_view(address.name).substr(1)).has_value()) {
    return InvalidArgument("ring name must be /{}<pid>-<{} hex digits>", kPrefix, kRandomDigits);
  }
  RETURN_IF_ERROR(CheckSizes(address));
  const int fd = shm_open(address.name.c_str(), O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return Unavailable("ring {} cannot be opened: {}", address.name, std::strerror(errno));
  std::unique_ptr<RowRingReader> ring(new RowRingReader(address, fd));
  struct stat object;
  if (fstat(fd, &object) != 0) {
    return Unavailable("ring {} cannot be examined: {}", address.name, std::strerror(errno));
  }
  RETURN_IF_ERROR(CheckObject(object, address));
  RETURN_IF_ERROR(ReadAll(fd, ring->nonce_, 0));
  return ring;
}

RowRingReader::~RowRingReader() { close(fd_); }

absl::Status RowRingReader::Read(int64_t first, int64_t count, std::span<std::byte> out) const {
  TANDEM_CHECK(first >= 0 && count >= 0 && count <= address_.slots);
  TANDEM_CHECK(static_cast<int64_t>(out.size()) == count * address_.row_bytes);
  const int64_t slot = first % address_.slots;
  const int64_t before_wrap = std::min(count, address_.slots - slot) * address_.row_bytes;
  RETURN_IF_ERROR(ReadAll(fd_, out.first(before_wrap), kHeaderBytes + slot * address_.row_bytes));
  return ReadAll(fd_, out.subspan(before_wrap), kHeaderBytes);
}

int RemoveStaleRings(const std::string& directory) {
  int removed = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string path = entry.path().string();
    const std::optional<pid_t> maker = MakerOf(entry.path().filename().string());
    struct stat object;
    if (!maker || lstat(path.c_str(), &object) != 0 || object.st_uid != geteuid()) continue;
    if (kill(*maker, 0) == 0 || errno != ESRCH) continue;
    if (unlink(path.c_str()) == 0) ++removed;
  }
  return removed;
}

}  // namespace tandem::speculation
