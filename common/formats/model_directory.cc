#include "common/formats/model_directory.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "common/base/status.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace fs = std::filesystem;
namespace {

// Both canonical.
bool IsBeneath(const fs::path& file, const fs::path& directory) {
  return std::mismatch(directory.begin(), directory.end(), file.begin(), file.end()).first == directory.end();
}

}  // namespace

absl::StatusOr<std::string> ResolveInside(const std::string& directory, const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return InvalidArgument("{}: {} is no plain file name", directory, Quoted(name));
  }
  std::error_code error;
  const fs::path root = fs::canonical(directory, error);
  if (error) return NotFound("{}: {}", directory, error.message());
  const fs::path file = fs::canonical(root / name, error);
  if (error == std::errc::no_such_file_or_directory)
    return NotFound("{}: no file {}", directory, Quoted(name));
  if (error) return Unavailable("{}: {}: {}", directory, Quoted(name), error.message());
  const fs::path snapshots = root.parent_path();
  const bool in_cache =
      snapshots.filename() == "snapshots" && IsBeneath(file, snapshots.parent_path() / "blobs");
  if (!IsBeneath(file, root) && !in_cache) {
    return InvalidArgument("{}: {} links to {}, outside the directory", directory, Quoted(name),
                           file.string());
  }
  return file.string();
}

}  // namespace tandem::formats
