#include "common/formats/gguf.h"

#include <limits>
#include <utility>

#include "common/base/status.h"
#include "common/formats/gguf_parser.h"
#include "common/formats/mapped_file.h"
#include "common/formats/pickle.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

class MappedGguf : public GgufFile {
 public:
  MappedGguf(std::unique_ptr<MappedFile> file, GgufContents contents)
      : file_(std::move(file)), contents_(std::move(contents)) {}

  const std::map<std::string, GgufValue>& metadata() const override { return contents_.metadata; }
  const std::map<std::string, TensorView>& tensors() const override { return contents_.tensors; }

 private:
  const std::unique_ptr<MappedFile> file_;  // what contents_ views
  const GgufContents contents_;
};

template <typename T>
const T* Find(const GgufFile& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? nullptr : std::get_if<T>(&found->second);
}

// Why Find came back empty-handed.
absl::Status AbsentOrOther(const GgufFile& file, const std::string& key, const char* wanted) {
  if (!file.metadata().contains(key)) return NotFound("metadata {} is missing", Quoted(key));
  return InvalidArgument("metadata {} is no {}", Quoted(key), wanted);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return Annotate(file.status(), path);
  auto contents = ParseGguf((*file)->bytes());
  if (!contents.ok() && BeginsAsPickle((*file)->bytes())) return Annotate(PickleRefused(), path);
  if (!contents.ok()) return Annotate(contents.status(), path);
  return std::make_unique<MappedGguf>(*std::move(file), *std::move(contents));
}

absl::StatusOr<int64_t> GgufFile::GetInt(const std::string& key) const {
  if (const auto* value = Find<int64_t>(*this, key)) return *value;
  const auto* value = Find<uint64_t>(*this, key);
  if (value == nullptr) return AbsentOrOther(*this, key, "integer");
  if (!std::in_range<int64_t>(*value))
    return InvalidArgument("metadata {} is {}, above 2^63", Quoted(key), *value);
  return static_cast<int64_t>(*value);
}

absl::StatusOr<double> GgufFile::GetFloat(const std::string& key) const {
  if (const auto* value = Find<double>(*this, key)) return *value;
  return AbsentOrOther(*this, key, "floating-point number");
}

absl::StatusOr<std::string> GgufFile::GetString(const std::string& key) const {
  if (const auto* value = Find<std::string>(*this, key)) return *value;
  return AbsentOrOther(*this, key, "string");
}

absl::StatusOr<bool> GgufFile::GetBool(const std::string& key) const {
  if (const auto* value = Find<bool>(*this, key)) return *value;
  return AbsentOrOther(*this, key, "truth value");
}

const std::vector<std::string>* GgufFile::GetStrings(const std::string& key) const {
  return Find<std::vector<std::string>>(*this, key);
}
const std::vector<int64_t>* GgufFile::GetInts(const std::string& key) const {
  return Find<std::vector<int64_t>>(*this, key);
}
const std::vector<double>* GgufFile::GetFloats(const std::string& key) const {
  return Find<std::vector<double>>(*this, key);
}

}  // namespace tandem::formats
