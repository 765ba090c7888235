#include "gateway/http/requests.h"

#include <utility>

#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/http/fields.h"
#include "gateway/http/generation_fields.h"
#include "gateway/limits.h"

namespace tandem::gateway::http {
namespace {

using Json = nlohmann::ordered_json;

// Text, or an array of {"type": "text", "text": ...}.
absl::StatusOr<std::string> ParseContent(const Json& content, const std::string& path,
                                         const std::string& model) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return WrongType(path, "text or an array of text parts", content);
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_path = fmt::format("{}[{}]", path, i);
    if (!content[i].is_object()) return WrongType(part_path, "a text part", content[i]);
    Fields part(content[i], part_path);
    std::optional<std::string> type, part_text;
    part.Read("type", &type);
    RETURN_IF_ERROR(part.status());
    if (!type) return error::Required(part.PathOf("type"));
    if (*type == "image_url" || *type == "input_audio" || *type == "file" || *type == "video_url" ||
        *type == "refusal")
      return error::Unsupported(fmt::format("{} of type {}", part_path, *type), model);
    if (*type != "text") return error::InvalidValue(part.PathOf("type"), "text", *type);
    part.Read("text", &part_text);
    RETURN_IF_ERROR(part.status());
    if (!part_text) return error::Required(part.PathOf("text"));
    if (i > 0) text += '\n';
    text += *part_text;
  }
  return text;
}

absl::StatusOr<Json> ParseMessage(const Json& message, const std::string& path, const std::string& model,
                                  int* unknown_fields) {
  if (!message.is_object()) return WrongType(path, "an object", message);
  Fields fields(message, path);
  std::optional<std::string> role;
  fields.Read("role", &role);
  RETURN_IF_ERROR(fields.status());
  if (!role) return error::Required(fields.PathOf("role"));
  if (*role != "system" && *role != "developer" && *role != "user" && *role != "assistant")
    return error::InvalidValue(fields.PathOf("role"), "one of system, developer, user, assistant", *role);
  for (const char* name : {"tool_calls", "function_call", "tool_call_id", "audio"}) {
    const Json* value = fields.Find(name);
    if (value != nullptr && !(value->is_array() && value->empty()))
      return error::Unsupported(fields.PathOf(name), model);
  }
  fields.Ignore("name");
  fields.Ignore("refusal");
  const Json* content = fields.Find("content");
  if (content == nullptr) return error::Required(fields.PathOf("content"));
  ASSIGN_OR_RETURN(std::string text, ParseContent(*content, fields.PathOf("content"), model));
  *unknown_fields += fields.NumUnknown();
  Json parsed = Json::object();
  parsed["role"] = *std::move(role);
  parsed["content"] = std::move(text);
  return parsed;
}

absl::StatusOr<Json> ParseMessages(const Json& messages, const std::string& model, int* unknown_fields) {
  if (!messages.is_array()) return WrongType("messages", "an array", messages);
  if (messages.empty()) return error::Invalid("messages", "messages must not be empty");
  if (messages.size() > size_t{limits::kMessages})
    return error::TooMany("messages", static_cast<int64_t>(messages.size()), limits::kMessages);
  Json parsed = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    ASSIGN_OR_RETURN(Json message,
                     ParseMessage(messages[i], fmt::format("messages[{}]", i), model, unknown_fields));
    parsed.push_back(std::move(message));
  }
  return parsed;
}

// A prompt that stands alone or in a list: text or token ids.
absl::StatusOr<GenerationRequest::Prompt> ParseOnePrompt(const Json& value, const std::string& path) {
  GenerationRequest::Prompt prompt;
  if (value.is_string()) {
    prompt.emplace<std::string>(value.get_ref<const std::string&>());
    return prompt;
  }
  if (!value.is_array()) return WrongType(path, "text or an array of token ids", value);
  if (value.empty()) return error::Invalid(path, fmt::format("{} must not be empty", path));
  ASSIGN_OR_RETURN(prompt, AsIntegers(value, path));
  return prompt;
}

absl::Status ParsePrompt(const Json& prompt, GenerationRequest* request) {
  const bool is_list = prompt.is_array() && !prompt.empty() && !prompt[0].is_number();
  if (!is_list) {
    ASSIGN_OR_RETURN(GenerationRequest::Prompt only, ParseOnePrompt(prompt, "prompt"));
    request->prompts.push_back(std::move(only));
    return absl::OkStatus();
  }
  if (prompt.size() > size_t{limits::kChoicesPerRequest})
    return error::TooMany("prompt", static_cast<int64_t>(prompt.size()), limits::kChoicesPerRequest);
  request->prompt_list = true;
  for (size_t i = 0; i < prompt.size(); ++i) {
    ASSIGN_OR_RETURN(GenerationRequest::Prompt one, ParseOnePrompt(prompt[i], fmt::format("prompt[{}]", i)));
    request->prompts.push_back(std::move(one));
  }
  return absl::OkStatus();
}

absl::Status CheckNumLogprobs(std::string_view name, int64_t value, int limit) {
  if (value < 0 || value > limit) return error::OutOfRange(name, fmt::format("0..{}", limit), value);
  return absl::OkStatus();
}

// Fields of both APIs, after the model and the input.
absl::Status ReadCommon(Fields& fields, ParsedGeneration* parsed) {
  ReadSamplingFields(fields, &parsed->request);
  ReadStop(fields, &parsed->request);
  StreamFields stream;
  ReadStreamFields(fields, parsed->request.model, &stream);
  parsed->stream = stream.stream;
  parsed->include_usage = stream.include_usage;
  parsed->include_drafts = stream.include_drafts;
  parsed->unknown_fields += stream.unknown_fields;
  RefuseUnsupported(fields, parsed->request);
  parsed->unknown_fields += fields.NumUnknown();
  return fields.status();
}

}  // namespace

absl::StatusOr<ParsedGeneration> ParseChatRequest(const Json& body) {
  ParsedGeneration parsed;
  GenerationRequest& request = parsed.request;
  request.api = "chat";
  Fields fields(body);
  ReadModel(fields, &request.model);
  ReadTemplateFlags(fields, &request.chat_template_kwargs);
  bool logprobs = false, echo = false;
  std::optional<int64_t> top_logprobs;
  fields.Read("logprobs", &logprobs);
  fields.Read("top_logprobs", &top_logprobs);
  fields.Read("echo", &echo);  // other servers have it for chats, too
  if (echo) fields.Fail(error::Unsupported("echo", request.model));
  const Json* messages = fields.Find("messages");
  RETURN_IF_ERROR(ReadCommon(fields, &parsed));

  if (messages == nullptr) return error::Required("messages");
  ASSIGN_OR_RETURN(request.messages, ParseMessages(*messages, request.model, &parsed.unknown_fields));
  if (top_logprobs) {
    RETURN_IF_ERROR(CheckNumLogprobs("top_logprobs", *top_logprobs, limits::kLogprobs));
    if (!logprobs) return error::Invalid("top_logprobs", "top_logprobs needs logprobs: true");
  }
  if (logprobs) request.num_logprobs = top_logprobs.value_or(0);
  return parsed;
}

absl::StatusOr<ParsedGeneration> ParseCompletionRequest(const Json& body) {
  ParsedGeneration parsed;
  GenerationRequest& request = parsed.request;
  request.api = "completions";
  request.default_max_tokens = limits::kCompletionsMaxTokens;
  Fields fields(body);
  ReadModel(fields, &request.model);
  std::optional<std::string> suffix;
  fields.Read("echo", &request.echo);
  fields.Read("suffix", &suffix);
  fields.Read("logprobs", &request.num_logprobs);
  const Json* prompt = fields.Find("prompt");
  RETURN_IF_ERROR(ReadCommon(fields, &parsed));

  if (prompt == nullptr) return error::Required("prompt");
  RETURN_IF_ERROR(ParsePrompt(*prompt, &request));
  if (suffix && !suffix->empty()) return error::Unsupported("suffix", request.model);
  if (request.num_logprobs) {
    RETURN_IF_ERROR(CheckNumLogprobs("logprobs", *request.num_logprobs, limits::kLogprobsCompletions));
    if (request.echo) return error::UnsupportedValue("echo", "echo is not supported together with logprobs");
  }
  return parsed;
}

absl::StatusOr<ParsedTokenize> ParseTokenizeRequest(const Json& body) {
  ParsedTokenize parsed;
  TokenizeRequest& request = parsed.request;
  Fields fields(body);
  ReadModel(fields, &request.model);
  fields.Read("prompt", &request.text);
  const Json* messages = fields.Find("messages");
  ReadTemplateFlags(fields, &request.chat_template_kwargs);
  RefuseUnsupportedTokenize(fields, request.model);
  RETURN_IF_ERROR(fields.status());
  if (messages != nullptr && request.text)
    return error::Invalid("messages", "only one of prompt and messages may be given");
  if (messages == nullptr && !request.text) return error::Required("prompt");
  if (messages != nullptr) {
    ASSIGN_OR_RETURN(request.messages, ParseMessages(*messages, request.model, &parsed.unknown_fields));
  }
  parsed.unknown_fields += fields.NumUnknown();
  return parsed;
}

absl::StatusOr<ParsedDetokenize> ParseDetokenizeRequest(const Json& body) {
  ParsedDetokenize parsed;
  Fields fields(body);
  ReadModel(fields, &parsed.model);
  const bool given = fields.Find("tokens") != nullptr;
  fields.Read("tokens", &parsed.tokens);
  RETURN_IF_ERROR(fields.status());
  if (!given) return error::Required("tokens");
  parsed.unknown_fields = fields.NumUnknown();
  return parsed;
}

}  // namespace tandem::gateway::http
