// What a method and a path mean.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::gateway::http {

enum class Route {
  kChatCompletions,
  kCompletions,
  kTokenize,
  kDetokenize,
  kModels,
  kModel,
  kVersion,
  kHealth,
  kReady,
};

struct Target {
  Route route;
  std::string model = {};  // of kModel, percent-decoded
};

// `target` as in the request line; a query is allowed and ignored. error::RouteNotFound or, for a known path,
// error::MethodNotAllowed.
absl::StatusOr<Target> FindRoute(std::string_view method, std::string_view target);

// "POST" or "GET", for the Allow header of a 405.
const char* AllowedMethod(std::string_view target);

// Whether the route answers without an API key.
inline bool IsPublic(Route route) { return route == Route::kHealth || route == Route::kReady; }
// Whether the request is a JSON body.
inline bool TakesBody(Route route) { return route <= Route::kDetokenize; }
// "chat", "models", ...: a metric label.
const char* RouteName(Route route);

}  // namespace tandem::gateway::http
