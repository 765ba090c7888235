// Which file a name inside a model's directory stands for.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tandem::formats {

// directory/name with symbolic links resolved. The name must be a plain file name, and the file must lie
// inside the directory; the one way out that is allowed is that of the Hugging Face cache, whose
// snapshots/<revision>/ directories link into the blobs/ directory beside snapshots/. kNotFound if there is
// no such file, kInvalidArgument if the name or the link leads elsewhere.
absl::StatusOr<std::string> ResolveInside(const std::string& directory, const std::string& name);

}  // namespace tandem::formats
