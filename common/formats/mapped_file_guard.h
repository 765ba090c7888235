// What happens when the pages of a mapped file go away while it is read: another process truncated it, or the
// disk fails. The kernel then sends SIGBUS to the thread that reads.
//
// Nobody can go on with half a model, and there is nothing to go back to, so the process ends as after any
// other bad file: exit 1 with one line that names the file. Only loading reads mapped files; once a process
// is ready it has closed them, and what becomes of the file cannot hurt it.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace tandem::formats {

// From now on a SIGBUS inside a mapped file ends the process so, with "program: file: ..." on stderr; any
// other SIGBUS does what it did before. Once, early in main; `program` is copied, at most 63 bytes of it.
void GuardMappedFiles(const std::string& program);

// One mapping, for as long as it lives. Used by MappedFile; thread-safe.
class MappedFileGuard {
 public:
  // Of mappings beyond kMaxMappedFiles the guard does not know the name; see full().
  MappedFileGuard(std::span<const std::byte> mapping, const std::string& path);
  ~MappedFileGuard();
  MappedFileGuard(const MappedFileGuard&) = delete;

  bool full() const { return slot_ < 0; }

 private:
  int slot_ = -1;
};

inline constexpr int kMaxMappedFiles = 8192;  // a checkpoint has up to 4,096 shards

}  // namespace tandem::formats
