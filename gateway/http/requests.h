// JSON bodies to what the gateway's core takes. Types, shapes and unsupported fields are checked here, value
// ranges by Generator; docs/api.md has the table of fields.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/admission/generator.h"

namespace tandem::gateway::http {

struct ParsedGeneration {
  GenerationRequest request;
  bool stream = false;
  bool include_usage = false;
  bool include_drafts = false;  // spans of drafted text, and metrics beside the usage
  int unknown_fields = 0;
};

// POST /v1/chat/completions. Text parts of a message are joined by newlines.
absl::StatusOr<ParsedGeneration> ParseChatRequest(const nlohmann::ordered_json& body);

// POST /v1/completions.
absl::StatusOr<ParsedGeneration> ParseCompletionRequest(const nlohmann::ordered_json& body);

// POST /tokenize: exactly one of "prompt" (text) and "messages".
struct ParsedTokenize {
  TokenizeRequest request;
  int unknown_fields = 0;
};
absl::StatusOr<ParsedTokenize> ParseTokenizeRequest(const nlohmann::ordered_json& body);

// POST /detokenize: "tokens".
struct ParsedDetokenize {
  std::string model;
  std::vector<int64_t> tokens;
  int unknown_fields = 0;
};
absl::StatusOr<ParsedDetokenize> ParseDetokenizeRequest(const nlohmann::ordered_json& body);

}  // namespace tandem::gateway::http
