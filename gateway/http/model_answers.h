// The answers that need no generation: models, version, health, tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/admission/generator.h"
#include "gateway/http/http_answer.h"

namespace tandem::gateway::http {

// The model under its name and each alias.
Answer ModelListAnswer(const ModelInfo& info);
// One of them, or "default"; error::ModelNotFound.
absl::StatusOr<Answer> ModelAnswer(const ModelInfo& info, std::string_view name);
Answer VersionAnswer();
// 200 or 503.
Answer HealthAnswer(bool good);
Answer TokensAnswer(const std::vector<int32_t>& tokens, int32_t max_model_len);
Answer TextAnswer(std::string_view text);

}  // namespace tandem::gateway::http
