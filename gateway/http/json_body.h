// A request's JSON body, bounded while it is parsed: a deep or wide one costs no more than the bytes read up
// to its limit. Strict: one object, UTF-8, no key twice in one object, no number that a double cannot hold,
// nothing after it but white space.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::gateway::http {

// At most limits::kJsonDepth containers inside each other and limits::kJsonKeys keys in all. Errors (reason
// validation) say what is wrong and at which byte, and never quote the body.
absl::StatusOr<nlohmann::ordered_json> ParseJsonBody(std::string_view text);

}  // namespace tandem::gateway::http
