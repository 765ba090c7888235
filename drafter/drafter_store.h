// Draft models that have a name, and where their files lie on this machine.
//
// A name stands for a directory with a draft checkpoint, looked for in TANDEM_DRAFTERS_DIR if that is set,
// else beside the program (<program>/../share/tandem/drafters) and in the source tree that it was built from.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::drafter {

// Where names are looked for, in this order.
std::vector<std::string> DrafterDirectories();

// A path with a slash or that exists stands for itself; `default` for the drafter of the target, which is a
// named model (common/base/model_store.h) or the file of one; everything else is a name. kNotFound says where
// was looked, kInvalidArgument that the target has no drafter of its own.
absl::StatusOr<std::string> ResolveDrafter(const std::string& name_or_path, const std::string& target,
                                           const std::vector<std::string>& directories);

}  // namespace tandem::drafter
