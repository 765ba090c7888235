#include "common/formats/model_digest.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/formats/model_directory.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigestDigits = 64;

// What the shell's * stands for, regular files only, sorted by bytes.
absl::StatusOr<std::vector<std::string>> FileNames(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code gone;  // a link to nowhere is no file
    const std::string name = entry->path().filename().string();
    if (name.starts_with('.') || !entry->is_regular_file(gone)) continue;
    // sha256sum writes such names otherwise.
    if (name.find_first_of("\\\n\r") != std::string::npos) {
      return InvalidArgument("{}: file {} has a backslash or a line's end in its name", directory,
                             Quoted(name));
    }
    names.push_back(name);
  }
  if (error) return Unavailable("{}: {}", directory, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

absl::StatusOr<std::string> ModelDigest(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_directory(status) && !fs::is_regular_file(status))
    return InvalidArgument("{}: is no regular file", path);  // a pipe would be waited for
  if (!fs::is_directory(status)) return Sha256OfFile(path);
  ASSIGN_OR_RETURN(const std::vector<std::string> names, FileNames(path));
  Sha256 all;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(const std::string file, ResolveInside(path, name));
    ASSIGN_OR_RETURN(const std::string digest, Sha256OfFile(file));
    all.Update(fmt::format("{}  {}\n", digest, name));
  }
  return all.Finish();
}

absl::Status CheckDigestOption(const std::string& value) {
  const bool is_hex =
      std::all_of(value.begin(), value.end(), [](unsigned char c) { return absl::ascii_isxdigit(c); });
  if (value.empty() || (value.size() == kDigestDigits && is_hex)) return absl::OkStatus();
  return InvalidArgument("--model-sha256 must be {} hex digits, got {}", kDigestDigits, Quoted(value));
}

absl::Status CheckModelDigest(const std::string& path, const std::string& expected) {
  if (expected.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string digest, ModelDigest(path));
  if (digest == absl::AsciiStrToLower(expected)) return absl::OkStatus();
  return InvalidArgument("{}: SHA-256 is {}, --model-sha256 asks for {}", path, digest, expected);
}

}  // namespace tandem::formats
