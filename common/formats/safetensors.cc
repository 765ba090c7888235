#include "common/formats/safetensors.h"

#include <utility>

#include "common/base/status.h"
#include "common/formats/mapped_file.h"
#include "common/formats/pickle.h"
#include "common/formats/safetensors_parser.h"

namespace tandem::formats {
namespace {

class MappedSafetensors : public SafetensorsFile {
 public:
  MappedSafetensors(std::unique_ptr<MappedFile> file, std::map<std::string, TensorView> tensors)
      : file_(std::move(file)), tensors_(std::move(tensors)) {}
  const std::map<std::string, TensorView>& tensors() const override { return tensors_; }

 private:
  const std::unique_ptr<MappedFile> file_;  // what tensors_ views
  const std::map<std::string, TensorView> tensors_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return Annotate(file.status(), path);
  auto tensors = ParseSafetensors((*file)->bytes());
  if (!tensors.ok() && BeginsAsPickle((*file)->bytes())) return Annotate(PickleRefused(), path);
  if (!tensors.ok()) return Annotate(tensors.status(), path);
  return std::make_unique<MappedSafetensors>(*std::move(file), *std::move(tensors));
}

}  // namespace tandem::formats
