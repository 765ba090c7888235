#include "verifier/scheduling/step_time_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/sha256.h"
#include "common/base/status.h"
#include "verifier/scheduling/step_time_json.h"

namespace tandem::verifier {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
constexpr size_t kMaxFileBytes = 64 * 1024;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

absl::Status SystemError(const char* action, const std::string& path) {
  return Unavailable("cannot {} {}: {}", action, path, std::strerror(errno));
}

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  // Not blocking, so that a FIFO in the file's place cannot hold the start up.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.fd() < 0 && errno == ENOENT) return NotFound("{}: no such file", path);
  if (file.fd() < 0) return SystemError("open", path);
  struct stat info;
  if (fstat(file.fd(), &info) != 0) return SystemError("stat", path);
  if (!S_ISREG(info.st_mode)) return InvalidArgument("{}: not a regular file", path);
  std::string text(kMaxFileBytes + 1, '\0');
  size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = read(file.fd(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError("read", path);
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  if (size > kMaxFileBytes) return InvalidArgument("{}: larger than {} bytes", path, kMaxFileBytes);
  text.resize(size);
  return text;
}

absl::Status WriteAll(int fd, const std::string& text, const std::string& path) {
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t n = write(fd, text.data() + written, text.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return SystemError("write", path);
    written += static_cast<size_t>(n);
  }
  if (fsync(fd) != 0) return SystemError("flush", path);
  return absl::OkStatus();
}

absl::StatusOr<StepTimeParameters> ParseParameters(const json& file, const std::string& numerics_id) {
  if (!file.is_object()) return InvalidArgument("not a JSON object");
  const auto format = file.find("format");
  if (format == file.end() || *format != kFormat) return InvalidArgument("format: must be {}", kFormat);
  const auto id = file.find("numerics_id");
  if (id == file.end() || !id->is_string() || id->get_ref<const std::string&>() != numerics_id) {
    return InvalidArgument("numerics_id: not '{}'", numerics_id);
  }
  return StepTimeFromJson(file);
}

}  // namespace

std::string StepTimeCachePath(const std::string& cache_directory, const std::string& numerics_id) {
  Sha256 sha;
  sha.Update(numerics_id);
  return (std::filesystem::path(cache_directory) / "step_time" / (sha.Finish() + ".json")).string();
}

absl::StatusOr<StepTimeModel> LoadStepTime(const std::string& path, const std::string& numerics_id) {
  ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  // Nesting is bounded by the file's size; the parser keeps its own stack.
  const json file = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (file.is_discarded()) return InvalidArgument("{}: not JSON", path);
  const auto parameters = ParseParameters(file, numerics_id);
  if (!parameters.ok()) return Annotate(parameters.status(), path);
  auto model = StepTimeModel::FromParameters(*parameters);
  if (!model.ok()) return Annotate(model.status(), path);
  return model;
}

absl::Status SaveStepTime(const StepTimeModel& model, const std::string& path,
                          const std::string& numerics_id) {
  json file = StepTimeToJson(model.parameters());
  file["format"] = kFormat;
  file["numerics_id"] = numerics_id;
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (error) return Unavailable("cannot create the directory of {}: {}", path, error.message());
  std::string temporary = path + ".XXXXXX";
  const Descriptor out(mkostemp(temporary.data(), O_CLOEXEC));
  if (out.fd() < 0) return SystemError("create", temporary);
  // numerics_id comes from our own build; bytes that are not UTF-8 are replaced rather than thrown at.
  const std::string text = file.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
  absl::Status status = WriteAll(out.fd(), text, temporary);
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0) status = SystemError("rename to", path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace tandem::verifier
