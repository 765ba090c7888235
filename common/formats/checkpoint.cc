#include "common/formats/checkpoint.h"

#include <filesystem>
#include <system_error>

#include "common/base/status.h"
#include "common/formats/checkpoint_readers.h"
#include "common/formats/pickle.h"

namespace tandem::formats {

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found)
    return NotFound("{}: no such file or directory", path);
  if (error) return Unavailable("{}: {}", path, error.message());
  if (std::filesystem::is_directory(status)) return OpenHuggingFaceCheckpoint(path);
  if (path.ends_with(".safetensors")) {
    return InvalidArgument("{}: name the directory that holds this file and its config.json", path);
  }
  if (IsPickleName(path)) return Annotate(PickleRefused(), path);
  return OpenGgufCheckpoint(path);
}

}  // namespace tandem::formats
