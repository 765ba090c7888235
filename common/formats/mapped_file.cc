#include "common/formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/base/status.h"

namespace tandem::formats {
namespace {

absl::Status OpenError(int error) {
  const char* reason = std::strerror(error);
  if (error == ENOENT || error == ENOTDIR) return NotFound("{}", reason);
  if (error == EACCES || error == EPERM) return MakeStatus(absl::StatusCode::kPermissionDenied, "{}", reason);
  return Unavailable("{}", reason);
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a named pipe must not wait for a writer. It has no effect on regular files.
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (fd.get() < 0) return OpenError(errno);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return OpenError(errno);
  if (!S_ISREG(info.st_mode)) return InvalidArgument("is no regular file");
  const size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return std::unique_ptr<MappedFile>(new MappedFile({}, path));
  void* address = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (address == MAP_FAILED)
    return Unavailable("cannot be mapped ({} bytes): {}", size, std::strerror(errno));
  std::unique_ptr<MappedFile> file(new MappedFile({static_cast<const std::byte*>(address), size}, path));
  if (file->guard_.full()) return ResourceExhausted("more than {} files are mapped", kMaxMappedFiles);
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return Annotate(file.status(), path);
  const std::span<const std::byte> bytes = (*file)->bytes();
  if (bytes.size() > max_bytes) {
    return InvalidArgument("{}: {} bytes, the limit is {}", path, bytes.size(), max_bytes);
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace tandem::formats
