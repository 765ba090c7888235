// Python pickles, as PyTorch saves them: reading one can run code, so none is read, and who offers one is
// told what to do instead.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tandem::formats {

// .bin, .pt, .pth, .ckpt, .pkl, .pickle
bool IsPickleName(std::string_view file_name);
// A pickle (protocol 2 and later), or a zip archive, which holds one. A safetensors file whose header has
// some lengths begins alike, so ask about files that are nothing else.
bool BeginsAsPickle(std::span<const std::byte> file);

// kInvalidArgument; the file's name is for the caller to add.
absl::Status PickleRefused();

// The first file of the directory with such a name; empty if there is none.
std::string FindPickle(const std::string& directory);

}  // namespace tandem::formats
