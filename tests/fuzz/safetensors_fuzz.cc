// A Hugging Face directory: "config.json NUL index.json NUL weights". With an index the weights are its shard
// model-00001-of-00001.safetensors, without one they are model.safetensors.
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/formats/checkpoint.h"
#include "common/formats/safetensors.h"
#include "common/formats/safetensors_parser.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/use_tensors.h"

namespace tandem::fuzz {
namespace {

namespace fs = std::filesystem;

// One directory for all inputs, removed at the end; in memory where the machine has a place for that.
class Directory {
 public:
  Directory() {
    std::string name =
        fs::is_directory("/dev/shm") ? "/dev/shm/tandem_fuzz_XXXXXX" : "/tmp/tandem_fuzz_XXXXXX";
    TANDEM_CHECK(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Directory() {
    std::error_code error;  // whoever left it locked keeps it
    fs::remove_all(path_, error);
  }
  const fs::path& path() const { return path_; }

  void Write(const char* name, std::string_view content) const {
    std::ofstream file(path_ / name, std::ios::binary);
    TANDEM_CHECK(static_cast<bool>(file.write(content.data(), static_cast<std::streamsize>(content.size()))));
  }
  void Remove(const char* name) const { fs::remove(path_ / name); }

 private:
  fs::path path_;
};

void Run(std::string_view input) {
  static const Directory directory;
  const std::string_view config = TakePart(input);
  const std::string_view index = TakePart(input);

  // An allocation of exactly this size, so that a read outside is seen.
  const std::vector<std::byte> weights(reinterpret_cast<const std::byte*>(input.data()),
                                       reinterpret_cast<const std::byte*>(input.data()) + input.size());
  const auto tensors = formats::ParseSafetensors(weights);
  if (tensors.ok()) {
    for (const auto& [name, tensor] : *tensors) UseTensor(tensor, weights);
  } else {
    CheckRefusal(tensors.status());
  }

  directory.Write("config.json", config);
  directory.Remove("model.safetensors.index.json");
  directory.Remove("model.safetensors");
  directory.Remove("model-00001-of-00001.safetensors");
  if (!index.empty()) directory.Write("model.safetensors.index.json", index);
  directory.Write(index.empty() ? "model.safetensors" : "model-00001-of-00001.safetensors", input);
  const auto file = formats::SafetensorsFile::OpenDirectory(directory.path());
  if (!file.ok()) CheckRefusal(file.status());
  TANDEM_CHECK(!index.empty() || file.ok() == tensors.ok());
  const auto checkpoint = formats::Checkpoint::Open(directory.path());
  if (!checkpoint.ok()) return CheckRefusal(checkpoint.status());
  TANDEM_CHECK(file.ok() && !(*checkpoint)->Fingerprint().empty());
}

}  // namespace
}  // namespace tandem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  tandem::fuzz::Run(tandem::fuzz::View(data, size));
  return 0;
}
