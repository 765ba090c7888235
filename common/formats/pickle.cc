#include "common/formats/pickle.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "common/base/status.h"

namespace tandem::formats {

bool IsPickleName(std::string_view file_name) {
  for (const std::string_view ending : {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}) {
    if (file_name.ends_with(ending)) return true;
  }
  return false;
}

bool BeginsAsPickle(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), std::min<size_t>(file.size(), 4));
  if (text == "PK\x03\x04") return true;
  return text.size() >= 2 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5;
}

absl::Status PickleRefused() {
  return InvalidArgument("is a Python pickle, which can run code when it is read; convert it to safetensors");
}

std::string FindPickle(const std::string& directory) {
  std::string first;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (IsPickleName(name) && (first.empty() || name < first)) first = name;
  }
  return first;
}

}  // namespace tandem::formats
