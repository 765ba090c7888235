// The SHA-256 by which an operator pins a model's files, as anybody can compute it with sha256sum.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::formats {

// Of a file: what `sha256sum FILE` prints. Of a directory: what `cd DIR && LC_ALL=C sha256sum -- * |
// sha256sum` prints, of its regular files (links followed as far as ResolveInside allows); those in folders
// inside it are never read and do not count. Lower-case hex. Reads everything.
absl::StatusOr<std::string> ModelDigest(const std::string& path);

// The value of --model-sha256: 64 hex digits of either case, or empty. kInvalidArgument otherwise.
absl::Status CheckDigestOption(const std::string& value);

// kInvalidArgument, naming path and both digests, unless the model's is `expected`, which has passed
// CheckDigestOption. Empty: nothing is read.
absl::Status CheckModelDigest(const std::string& path, const std::string& expected);

}  // namespace tandem::formats
