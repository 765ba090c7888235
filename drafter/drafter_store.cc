#include "drafter/drafter_store.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "common/base/model_store.h"
#include "common/base/status.h"

namespace tandem::drafter {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::string> DefaultDrafterOf(const std::string& target) {
  const std::string file = fs::path(target).filename().string();
  for (const NamedModel& model : NamedModels()) {
    if (target != model.name && file != model.file) continue;
    if (*model.drafter == '\0') return InvalidArgument("model {} has no drafter of its own", model.name);
    return std::string(model.drafter);
  }
  return InvalidArgument("--model default: no drafter is known for target {}; name one", target);
}

}  // namespace

std::vector<std::string> DrafterDirectories() {
  const char* configured = std::getenv("TANDEM_DRAFTERS_DIR");
  if (configured != nullptr && *configured != '\0') return {configured};
  std::vector<std::string> directories;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    directories.push_back((program.parent_path() / "../share/tandem/drafters").lexically_normal().string());
  }
  directories.push_back(TANDEM_DRAFTERS_SOURCE_DIR);
  return directories;
}

absl::StatusOr<std::string> ResolveDrafter(const std::string& name_or_path, const std::string& target,
                                           const std::vector<std::string>& directories) {
  std::error_code error;
  std::string name = name_or_path;
  if (name == "default") {
    ASSIGN_OR_RETURN(name, DefaultDrafterOf(target));
  } else if (fs::exists(name, error) || name.find('/') != std::string::npos) {
    return name;
  }
  for (const std::string& directory : directories) {
    const fs::path path = fs::path(directory) / name;
    if (fs::exists(path / "config.json", error)) return path.string();
  }
  return NotFound("drafter {} is neither a path that exists nor a name with files in {}", name,
                  fmt::join(directories, ", "));
}

}  // namespace tandem::drafter
