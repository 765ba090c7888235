#include "gateway/http/model_answers.h"

#include <algorithm>
#include <iterator>

#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/http/json_text.h"

namespace tandem::gateway::http {
namespace {

void AppendModel(const ModelInfo& info, std::string_view name, std::string* out) {
  *out += "{\"id\":";
  AppendJsonText(name, out);
  fmt::format_to(std::back_inserter(*out),
                 ",\"object\":\"model\",\"created\":{},\"owned_by\":\"tandem\",\"root\":",
                 absl::ToUnixSeconds(info.created));
  AppendJsonText(info.id, out);
  fmt::format_to(std::back_inserter(*out),
                 ",\"parent\":null,\"max_model_len\":{},\"capabilities\":[\"chat\",\"completions\","
                 "\"logprobs\",\"streaming\",\"tokenize\"]}}",
                 info.max_model_len);
}

}  // namespace

Answer ModelListAnswer(const ModelInfo& info) {
  Answer answer{.body = "{\"object\":\"list\",\"data\":["};
  AppendModel(info, info.id, &answer.body);
  for (const std::string& alias : info.aliases) {
    answer.body += ',';
    AppendModel(info, alias, &answer.body);
  }
  answer.body += "]}";
  return answer;
}

absl::StatusOr<Answer> ModelAnswer(const ModelInfo& info, std::string_view name) {
  if (name != info.id && name != "default" && std::ranges::find(info.aliases, name) == info.aliases.end())
    return error::ModelNotFound(name);
  Answer answer;
  AppendModel(info, name == "default" ? std::string_view(info.id) : name, &answer.body);
  return answer;
}

Answer VersionAnswer() { return {.body = "{\"version\":\"" TANDEM_VERSION "\"}"}; }

Answer HealthAnswer(bool good) {
  if (good) return {.body = "{\"status\":\"SERVING\"}"};
  return {.status = 503, .body = "{\"status\":\"NOT_SERVING\"}"};
}

Answer TokensAnswer(const std::vector<int32_t>& tokens, int32_t max_model_len) {
  Answer answer{
      .body = fmt::format("{{\"count\":{},\"max_model_len\":{},\"tokens\":[", tokens.size(), max_model_len)};
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) answer.body += ',';
    answer.body += std::to_string(tokens[i]);
  }
  answer.body += "]}";
  return answer;
}

Answer TextAnswer(std::string_view text) {
  Answer answer{.body = "{\"prompt\":"};
  AppendJsonText(text, &answer.body);
  answer.body += '}';
  return answer;
}

}  // namespace tandem::gateway::http
