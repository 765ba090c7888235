#include "gateway/admission/validate_request.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string_view>

#include "common/base/status.h"
#include "common/text/utf8.h"
#include "gateway/errors.h"
#include "gateway/limits.h"

namespace tandem::gateway {
namespace {

using nlohmann::ordered_json;

// A number in [low, high]; NaN is in no range.
absl::Status InRange(const char* param, double value, double low, double high, const char* range) {
  if (value >= low && value <= high) return absl::OkStatus();
  return error::OutOfRange(param, range, value);
}

absl::Status IntInRange(const char* param, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return error::OutOfRange(param, fmt::format("{}..{}", low, high), value);
}

// Keeps a positive double positive in float.
float PositiveFloat(double value) {
  return std::max(static_cast<float>(value), std::numeric_limits<float>::min());
}

const char* LogprobsField(const std::string& api) {
  if (api == "chat") return "top_logprobs";
  return api == "completions" ? "logprobs" : "num_logprobs";
}

absl::Status CheckSampling(const GenerationRequest& request, int32_t vocab_size,
                           sampling::SamplingParams& out) {
  if (request.temperature) {
    RETURN_IF_ERROR(InRange("temperature", *request.temperature, 0, limits::kTemperature, "0..2"));
    out.temperature = static_cast<float>(*request.temperature);
  }
  if (request.top_p) {
    if (!(*request.top_p > 0 && *request.top_p <= 1))
      return error::OutOfRange("top_p", "(0, 1]", *request.top_p);
    out.top_p = PositiveFloat(*request.top_p);
  }
  if (request.min_p) {
    RETURN_IF_ERROR(InRange("min_p", *request.min_p, 0, 1, "0..1"));
    out.min_p = static_cast<float>(*request.min_p);
  }
  if (request.top_k) {
    RETURN_IF_ERROR(IntInRange("top_k", *request.top_k, -1, std::numeric_limits<int32_t>::max()));
    out.top_k = static_cast<int32_t>(std::max<int64_t>(*request.top_k, 0));
  }
  if (request.repetition_penalty) {
    RETURN_IF_ERROR(InRange("repetition_penalty", *request.repetition_penalty, limits::kMinRepetitionPenalty,
                            limits::kMaxRepetitionPenalty, "0.1..10"));
    // The bounds are those of float, as the verifier will check them.
    out.repetition_penalty = std::clamp(static_cast<float>(*request.repetition_penalty), 0.1f, 10.0f);
  }
  if (request.frequency_penalty) {
    RETURN_IF_ERROR(InRange("frequency_penalty", *request.frequency_penalty, -limits::kPenalty,
                            limits::kPenalty, "-2..2"));
    out.frequency_penalty = static_cast<float>(*request.frequency_penalty);
  }
  if (request.presence_penalty) {
    RETURN_IF_ERROR(
        InRange("presence_penalty", *request.presence_penalty, -limits::kPenalty, limits::kPenalty, "-2..2"));
    out.presence_penalty = static_cast<float>(*request.presence_penalty);
  }
  if (request.logit_bias.size() > limits::kLogitBiases) {
    return error::TooMany("logit_bias", static_cast<int64_t>(request.logit_bias.size()),
                          limits::kLogitBiases);
  }
  std::set<int64_t> seen;
  for (const auto& [id, bias] : request.logit_bias) {
    RETURN_IF_ERROR(IntInRange("logit_bias", id, 0, vocab_size - 1));
    RETURN_IF_ERROR(InRange("logit_bias", bias, -limits::kLogitBias, limits::kLogitBias, "-100..100"));
    if (!seen.insert(id).second)
      return error::Invalid("logit_bias", fmt::format("logit_bias names token {} twice", id));
    out.logit_bias.emplace_back(static_cast<int32_t>(id), static_cast<float>(bias));
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const GenerationRequest& request, int32_t vocab_size, CheckedRequest& out) {
  if (request.stop.size() > limits::kStopTexts) {
    return error::TooMany("stop", static_cast<int64_t>(request.stop.size()), limits::kStopTexts);
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty() || stop.size() > static_cast<size_t>(limits::kStopTextBytes)) {
      return error::Invalid(
          "stop", fmt::format("stop must have 1..{} bytes, got {}", limits::kStopTextBytes, stop.size()));
    }
    if (text::FindIllFormedUtf8(stop) != std::string::npos)
      return error::InvalidValue("stop", "valid UTF-8", stop);
  }
  out.stop = request.stop;
  if (request.stop_token_ids.size() > limits::kStopTokenIds) {
    return error::TooMany("stop_token_ids", static_cast<int64_t>(request.stop_token_ids.size()),
                          limits::kStopTokenIds);
  }
  ASSIGN_OR_RETURN(out.stop_token_ids, CheckTokenIds("stop_token_ids", request.stop_token_ids, vocab_size));
  return absl::OkStatus();
}

absl::Status CheckCounts(const GenerationRequest& request, const ModelFacts& model, CheckedRequest& out) {
  const int64_t num_prompts = request.messages ? 1 : static_cast<int64_t>(request.prompts.size());
  RETURN_IF_ERROR(IntInRange("n", request.n.value_or(1), 1, limits::kChoicesPerPrompt));
  out.n = static_cast<int32_t>(request.n.value_or(1));
  if (num_prompts > limits::kChoicesPerRequest / out.n) {
    return error::Invalid("n", fmt::format("prompts ({}) x n ({}) exceed {} choices", num_prompts, out.n,
                                           limits::kChoicesPerRequest));
  }
  // Beyond the context OutputBudget will complain, knowing the prompt's length.
  if (request.max_tokens) {
    if (*request.max_tokens < 1) {
      return error::OutOfRange("max_tokens", fmt::format("1..{} minus the prompt", model.max_model_len),
                               *request.max_tokens);
    }
    out.max_tokens =
        static_cast<int32_t>(std::min<int64_t>(*request.max_tokens, std::numeric_limits<int32_t>::max()));
  }
  if (request.default_max_tokens) {
    out.default_max_tokens = static_cast<int32_t>(
        std::clamp<int64_t>(*request.default_max_tokens, 1, std::numeric_limits<int32_t>::max()));
  }
  const int64_t most = out.max_tokens.value_or(model.max_model_len);
  RETURN_IF_ERROR(IntInRange("min_tokens", request.min_tokens.value_or(0), 0, most));
  out.min_tokens = static_cast<int32_t>(request.min_tokens.value_or(0));
  RETURN_IF_ERROR(
      IntInRange("priority", request.priority.value_or(0), -limits::kPriority, limits::kPriority));
  out.priority = static_cast<int32_t>(request.priority.value_or(0));
  out.tpot_target_ms = request.tpot_target_ms.value_or(0);
  RETURN_IF_ERROR(InRange("tpot_target_ms", out.tpot_target_ms, 0, limits::kTpotTargetMs, "0..60000"));
  if (request.num_logprobs) {
    const int most_logprobs = request.api == "completions" ? limits::kLogprobsCompletions : limits::kLogprobs;
    RETURN_IF_ERROR(IntInRange(LogprobsField(request.api), *request.num_logprobs, 0, most_logprobs));
    out.num_logprobs = static_cast<int32_t>(*request.num_logprobs);
  }
  return absl::OkStatus();
}

absl::Status CheckInput(const GenerationRequest& request, const ModelFacts& model) {
  if (request.messages && !request.prompts.empty()) {
    return error::Invalid("prompt", "only one of prompt and messages may be given");
  }
  if (!request.messages && request.prompts.empty()) {
    return error::Required(request.api == "chat" ? "messages" : "prompt");
  }
  for (const GenerationRequest::Prompt& prompt : request.prompts) {
    if (const auto* words = std::get_if<std::string>(&prompt)) {
      if (words->empty()) return error::Invalid("prompt", "prompt must not be empty");
      RETURN_IF_ERROR(CheckPromptBytes(static_cast<int64_t>(words->size()), model.max_model_len));
      if (text::FindIllFormedUtf8(*words) != std::string::npos) {
        return error::Invalid(
            "prompt", fmt::format("prompt is not valid UTF-8 at byte {}", text::FindIllFormedUtf8(*words)));
      }
    } else {
      const auto& ids = std::get<std::vector<int64_t>>(prompt);
      if (ids.empty()) return error::Invalid("prompt", "prompt must not be empty");
      if (static_cast<int64_t>(ids.size()) >= model.max_model_len) {
        return error::PromptFillsContext(static_cast<int64_t>(ids.size()), model.max_model_len);
      }
    }
  }
  if (request.echo && request.num_logprobs) {
    return error::UnsupportedValue("echo", "echo is not supported together with logprobs");
  }
  if (request.echo && request.messages)
    return error::UnsupportedValue("echo", "echo is not supported for messages");
  return CheckTemplateFlags(request.chat_template_kwargs, model);
}

// The text of a message's content: a string, or text parts joined by newlines.
absl::StatusOr<std::string> ContentText(const ordered_json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array() || content.empty()) {
    return error::Invalid(where, fmt::format("{} must be a text or a list of text parts", where));
  }
  std::string joined;
  for (size_t i = 0; i < content.size(); ++i) {
    const ordered_json& part = content[i];
    const std::string part_where = fmt::format("{}[{}]", where, i);
    if (!part.is_object()) return error::Invalid(part_where, fmt::format("{} must be an object", part_where));
    const auto type = part.find("type");
    if (type == part.end() || !type->is_string()) return error::Required(part_where + ".type");
    if (*type != "text") {
      return error::UnsupportedValue(part_where + ".type",
                                     fmt::format("{}.type must be \"text\", got \"{}\"", part_where,
                                                 EscapedValue(type->get<std::string>())));
    }
    const auto words = part.find("text");
    if (words == part.end() || !words->is_string()) return error::Required(part_where + ".text");
    if (i > 0) joined += '\n';
    joined += words->get<std::string>();
  }
  return joined;
}

}  // namespace

absl::StatusOr<CheckedRequest> CheckRequest(const GenerationRequest& request, const ModelFacts& model) {
  RETURN_IF_ERROR(CheckModelName(request.model, model));
  CheckedRequest out;
  if (IsRequestId(request.request_id)) out.request_id = request.request_id;
  if (IsTraceparent(request.traceparent)) {
    out.traceparent = request.traceparent;
    if (IsTracestate(request.tracestate)) out.tracestate = request.tracestate;
  }
  RETURN_IF_ERROR(CheckInput(request, model));
  RETURN_IF_ERROR(CheckCounts(request, model, out));
  RETURN_IF_ERROR(CheckSampling(request, model.vocab_size, out.sampling));
  RETURN_IF_ERROR(CheckStops(request, model.vocab_size, out));
  if (request.seed) {
    out.has_seed = true;
    out.sampling.seed = *request.seed;
  }
  out.ignore_eos = request.ignore_eos;
  out.echo = request.echo;
  return out;
}

absl::Status CheckModelName(const std::string& name, const ModelFacts& model) {
  if (name.empty()) return error::Required("model");
  if (name.size() > static_cast<size_t>(limits::kModelNameBytes)) {
    return error::Invalid("model", fmt::format("model has {} bytes, at most {} are allowed", name.size(),
                                               limits::kModelNameBytes));
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      return error::InvalidValue("model", "a name without control characters", name);
    }
  }
  if (name == model.id || name == "default") return absl::OkStatus();
  if (std::find(model.aliases.begin(), model.aliases.end(), name) != model.aliases.end())
    return absl::OkStatus();
  return error::ModelNotFound(name);
}

absl::Status CheckTemplateFlags(const std::map<std::string, bool>& flags, const ModelFacts& model) {
  for (const auto& [name, value] : flags) {
    const auto& allowed = model.template_flags;
    if (std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
      return error::UnsupportedValue("chat_template_kwargs",
                                     fmt::format("chat_template_kwargs.{} is not supported by model {}",
                                                 EscapedValue(name), EscapedValue(model.id)));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPromptBytes(int64_t bytes, int32_t max_model_len) {
  const int64_t limit = limits::kPromptBytesPerToken * max_model_len;
  if (bytes > limit) return error::PromptTooManyBytes(bytes, limit, max_model_len);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> CheckTokenIds(const char* param, const std::vector<int64_t>& ids,
                                                   int32_t vocab_size) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return error::OutOfRange(param, fmt::format("ids 0..{}", vocab_size - 1), id);
    }
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

absl::StatusOr<ordered_json> CheckMessages(const ordered_json& messages) {
  if (!messages.is_array()) return error::Invalid("messages", "messages must be a list");
  if (messages.empty()) return error::Invalid("messages", "messages must not be empty");
  if (messages.size() > limits::kMessages) {
    return error::TooMany("messages", static_cast<int64_t>(messages.size()), limits::kMessages);
  }
  ordered_json out = ordered_json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    const ordered_json& message = messages[i];
    if (!message.is_object()) return error::Invalid(where, fmt::format("{} must be an object", where));
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) return error::Required(where + ".role");
    std::string role_name = role->get<std::string>();
    if (role_name != "system" && role_name != "developer" && role_name != "user" &&
        role_name != "assistant") {
      return error::InvalidValue(where + ".role", "one of system, developer, user, assistant", role_name);
    }
    // OpenAI's newer name for the same thing; templates know the old one.
    if (role_name == "developer") role_name = "system";
    const auto content = message.find("content");
    if (content == message.end() || content->is_null()) return error::Required(where + ".content");
    ASSIGN_OR_RETURN(std::string words, ContentText(*content, where + ".content"));
    if (text::FindIllFormedUtf8(words) != std::string::npos) {
      return error::Invalid(where + ".content", fmt::format("{}.content is not valid UTF-8", where));
    }
    ordered_json checked = ordered_json::object();
    checked["role"] = std::move(role_name);
    checked["content"] = std::move(words);
    out.push_back(std::move(checked));
  }
  return out;
}

absl::StatusOr<int32_t> OutputBudget(const CheckedRequest& request, int64_t prompt_tokens,
                                     int32_t max_model_len) {
  if (prompt_tokens < 1) return error::Invalid("prompt", "prompt must not be empty");
  const int64_t rest = max_model_len - prompt_tokens;
  if (rest < 1) {
    if (request.max_tokens) return error::PromptTooLong(prompt_tokens, *request.max_tokens, max_model_len);
    return error::PromptFillsContext(prompt_tokens, max_model_len);
  }
  if (request.max_tokens && *request.max_tokens > rest) {
    return error::PromptTooLong(prompt_tokens, *request.max_tokens, max_model_len);
  }
  const int64_t asked = request.max_tokens.value_or(request.default_max_tokens.value_or(rest));
  const int64_t budget = std::min(asked, rest);
  RETURN_IF_ERROR(IntInRange("min_tokens", request.min_tokens, 0, budget));
  return static_cast<int32_t>(budget);
}

bool IsRequestId(const std::string& text) {
  if (text.empty() || text.size() > static_cast<size_t>(limits::kRequestIdBytes)) return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
}

bool IsTraceparent(const std::string& text) {
  if (text.size() != static_cast<size_t>(limits::kTraceparentBytes)) return false;
  if (text.compare(0, 3, "00-") != 0 || text[35] != '-' || text[52] != '-') return false;
  const auto is_hex = [&](size_t begin, size_t count) {
    return text.find_first_not_of("0123456789abcdef", begin) >= begin + count;
  };
  const auto is_zero = [&](size_t begin, size_t count) {
    return text.find_first_not_of('0', begin) >= begin + count;
  };
  return is_hex(3, 32) && is_hex(36, 16) && is_hex(53, 2) && !is_zero(3, 32) && !is_zero(36, 16);
}

bool IsTracestate(const std::string& text) {
  return text.size() <= static_cast<size_t>(limits::kTracestateBytes) &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace tandem::gateway
