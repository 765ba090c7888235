// SafetensorsFile::OpenDirectory: one file, or shards joined by model.safetensors.index.json
// ({"weight_map": {tensor name: file name}, ...}).
#include <set>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/formats/json.h"
#include "common/formats/mapped_file.h"
#include "common/formats/model_directory.h"
#include "common/formats/pickle.h"
#include "common/formats/quoted.h"
#include "common/formats/safetensors.h"

namespace tandem::formats {
namespace {

using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 25'000'000;
constexpr size_t kMaxTensors = 65'536;
constexpr size_t kMaxShards = 4'096;

class ShardedSafetensors : public SafetensorsFile {
 public:
  ShardedSafetensors(std::map<std::string, std::unique_ptr<SafetensorsFile>> shards,
                     std::map<std::string, TensorView> tensors)
      : shards_(std::move(shards)), tensors_(std::move(tensors)) {}
  const std::map<std::string, TensorView>& tensors() const override { return tensors_; }

 private:
  const std::map<std::string, std::unique_ptr<SafetensorsFile>> shards_;  // by file name; what tensors_ views
  const std::map<std::string, TensorView> tensors_;
};

// Tensor name -> shard's file name.
absl::StatusOr<std::map<std::string, std::string>> ReadWeightMap(const std::string& index_path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(index_path, kMaxIndexBytes));
  auto index = ParseJson(text);
  if (!index.ok()) return Annotate(index.status(), index_path);
  if (!index->is_object()) return InvalidArgument("{}: is no JSON object", index_path);
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object()) {
    return InvalidArgument("{}: weight_map is missing or no object", index_path);
  }
  if (map->empty() || map->size() > kMaxTensors) {
    return InvalidArgument("{}: weight_map has {} tensors, allowed are 1 to {}", index_path, map->size(),
                           kMaxTensors);
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string())
      return InvalidArgument("{}: the shard of {} is no string", index_path, Quoted(tensor));
    weight_map.emplace(tensor, shard.get<std::string>());
  }
  return weight_map;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenShards(const std::string& directory,
                                                            const std::string& index_path) {
  ASSIGN_OR_RETURN(const auto weight_map, ReadWeightMap(index_path));
  std::set<std::string> names;
  for (const auto& [tensor, shard] : weight_map) names.insert(shard);
  if (names.size() > kMaxShards) {
    return InvalidArgument("{}: {} shards, the limit is {}", index_path, names.size(), kMaxShards);
  }

  std::map<std::string, std::unique_ptr<SafetensorsFile>> shards;
  for (const std::string& name : names) {
    if (IsPickleName(name))
      return Annotate(PickleRefused(), fmt::format("{}: shard {}", index_path, Quoted(name)));
    auto path = ResolveInside(directory, name);
    if (!path.ok()) return absl::InvalidArgumentError(Annotate(path.status(), index_path).message());
    ASSIGN_OR_RETURN(shards[name], SafetensorsFile::Open(*path));
  }

  std::map<std::string, TensorView> tensors;
  for (const auto& [tensor, shard] : weight_map) {
    const auto& held = shards.at(shard)->tensors();
    const auto found = held.find(tensor);
    if (found == held.end()) {
      return InvalidArgument("{}: shard {} has no tensor {}", index_path, Quoted(shard), Quoted(tensor));
    }
    tensors.emplace(tensor, found->second);
  }
  return std::make_unique<ShardedSafetensors>(std::move(shards), std::move(tensors));
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::OpenDirectory(
    const std::string& directory) {
  const auto single = ResolveInside(directory, kSingleFile);
  if (single.ok()) return Open(*single);
  if (!absl::IsNotFound(single.status())) return single.status();
  const auto index = ResolveInside(directory, kIndexFile);
  if (index.ok()) return OpenShards(directory, *index);
  if (!absl::IsNotFound(index.status())) return index.status();
  if (const std::string pickle = FindPickle(directory); !pickle.empty())
    return Annotate(PickleRefused(), fmt::format("{}: {}", directory, Quoted(pickle)));
  return NotFound("{}: neither {} nor {}", directory, kSingleFile, kIndexFile);
}

}  // namespace tandem::formats
