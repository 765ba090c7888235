// A regular file mapped read-only.
//
// The mapping has the size the file had at Open. A file that another process truncates afterwards takes the
// pages with it: reading them raises SIGBUS, which ends the process (mapped_file_guard.h: with one line that
// names the file). Replace model files by renaming. Immutable after Open, hence thread-safe. Spans borrow.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "common/formats/mapped_file_guard.h"

namespace tandem::formats {

class MappedFile {
 public:
  // kNotFound, kPermissionDenied or kUnavailable if it cannot be opened; kInvalidArgument if it is no regular
  // file (never blocks on a pipe); kResourceExhausted beyond kMaxMappedFiles at once. Messages do not name
  // the path: callers do, once.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  MappedFile(std::span<const std::byte> bytes, const std::string& path)
      : bytes_(bytes), guard_(bytes, path) {}

  const std::span<const std::byte> bytes_;
  const MappedFileGuard guard_;
};

// The whole content of a small text file, at most `max_bytes` of it (kInvalidArgument if larger). Errors as
// Open, but naming the path.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t max_bytes);

}  // namespace tandem::formats
