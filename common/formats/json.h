// JSON out of untrusted files, bounded while it is parsed.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::formats {

struct JsonLimits {
  size_t max_depth = 32;  // nesting of objects and arrays
  size_t max_values =
      1'000'000;  // values of all kinds, containers included: bounds memory to some 100 bytes each
};

// Strict: one value, nothing after it but white space, UTF-8, no key twice in one object. kInvalidArgument
// says what is wrong and at which byte; the file's name is for the caller to add.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const JsonLimits& limits = {});

}  // namespace tandem::formats
