#include "gateway/http/routes.h"

#include <iterator>
#include <optional>

#include "gateway/errors.h"

namespace tandem::gateway::http {
namespace {

constexpr struct {
  const char* path;
  const char* method;
  Route route;
  const char* name;
} kRoutes[] = {
    {"/v1/chat/completions", "POST", Route::kChatCompletions, "chat"},
    {"/v1/completions", "POST", Route::kCompletions, "completions"},
    {"/tokenize", "POST", Route::kTokenize, "tokenize"},
    {"/detokenize", "POST", Route::kDetokenize, "detokenize"},
    {"/v1/models", "GET", Route::kModels, "models"},
    {"/v1/models/", "GET", Route::kModel, "model"},  // and a name, which may contain slashes
    {"/version", "GET", Route::kVersion, "version"},
    {"/health", "GET", Route::kHealth, "health"},
    {"/ready", "GET", Route::kReady, "ready"},
};

std::optional<std::string> PercentDecoded(std::string_view text) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return std::nullopt;
    decoded += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  return decoded;
}

const auto* FindPath(std::string_view path) {
  for (const auto& row : kRoutes) {
    const bool is_prefix = row.route == Route::kModel;
    if (is_prefix ? path.starts_with(row.path) && path != row.path : path == row.path) return &row;
  }
  return static_cast<decltype(&kRoutes[0])>(nullptr);
}

}  // namespace

absl::StatusOr<Target> FindRoute(std::string_view method, std::string_view target) {
  const std::string_view path = target.substr(0, target.find('?'));
  const auto* row = FindPath(path);
  if (row == nullptr) return error::RouteNotFound(path);
  if (method != row->method) return error::MethodNotAllowed(method);
  if (row->route != Route::kModel) return Target{row->route};
  std::optional<std::string> model = PercentDecoded(path.substr(std::string_view(row->path).size()));
  if (!model) return error::RouteNotFound(path);
  return Target{row->route, *std::move(model)};
}

const char* AllowedMethod(std::string_view target) {
  const auto* row = FindPath(target.substr(0, target.find('?')));
  return row == nullptr ? "" : row->method;
}

const char* RouteName(Route route) { return kRoutes[static_cast<size_t>(route)].name; }

}  // namespace tandem::gateway::http
