// JSON from files that nobody vouches for.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::text {

// Parses `text` (UTF-8). Values nested deeper than `max_depth` are never built, since code that walks or copies them
// recurses. kInvalidArgument for bad syntax, for too much depth, and for an object that holds a key twice.
absl::StatusOr<nlohmann::json> ParseBoundedJson(std::string_view text, int max_depth);

}  // namespace tandem::text
