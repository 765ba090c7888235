#include "gateway/http/generation_fields.h"

#include <charconv>
#include <span>

#include "common/base/status.h"
#include "gateway/errors.h"
#include "gateway/limits.h"

namespace tandem::gateway::http {
namespace {

using Json = nlohmann::ordered_json;

bool IsText(const Json& value, std::string_view text) {
  return value.is_string() && value.get_ref<const std::string&>() == text;
}
bool IsEmptyArray(const Json& value) { return value.is_array() && value.empty(); }
bool IsNoneOrAuto(const Json& value) { return IsText(value, "none") || IsText(value, "auto"); }
bool IsMedium(const Json& value) { return IsText(value, "medium"); }
bool IsTrue(const Json& value) { return value == true; }
bool IsFalse(const Json& value) { return value == false; }
bool IsOne(const Json& value) { return value.is_number() && value == 1; }
bool IsTextOnly(const Json& value) {
  return value.is_array() && value.size() == 1 && IsText(value[0], "text");
}
bool IsTextFormat(const Json& value) {
  return value.is_object() && value.contains("type") && IsText(value["type"], "text");
}
bool Never(const Json&) { return false; }

// Fields that would change the answer, and the values that would not: empty, or the API's own default.
struct UnsupportedField {
  const char* name;
  bool (*is_neutral)(const Json& value);
};
constexpr UnsupportedField kUnsupported[] = {
    {"tools", IsEmptyArray},
    {"functions", IsEmptyArray},
    {"tool_choice", IsNoneOrAuto},
    {"function_call", IsNoneOrAuto},
    {"response_format", IsTextFormat},
    {"chat_template", Never},
    {"audio", Never},
    {"modalities", IsTextOnly},
    {"prediction", Never},
    {"reasoning_effort", IsMedium},
    {"verbosity", IsMedium},
    {"web_search_options", Never},
    // Of other servers that speak this API: a client that asks for one of them must not get less unnoticed.
    {"guided_json", Never},
    {"guided_regex", Never},
    {"guided_choice", Never},
    {"guided_grammar", Never},
    {"structured_outputs", Never},
    {"structural_tag", Never},
    {"prompt_logprobs", Never},
    {"prompt_embeds", Never},
    {"truncate_prompt_tokens", Never},
    {"allowed_token_ids", Never},
    {"bad_words", IsEmptyArray},
    {"logits_processors", IsEmptyArray},
    {"documents", IsEmptyArray},
    {"mm_processor_kwargs", Never},
    {"use_beam_search", IsFalse},
    {"early_stopping", IsFalse},
    {"length_penalty", IsOne},
    {"include_stop_str_in_output", IsFalse},
    {"skip_special_tokens", IsTrue},
    {"spaces_between_special_tokens", IsTrue},
    {"return_tokens_as_token_ids", IsFalse},
    {"return_token_ids", IsFalse},
    {"add_generation_prompt", IsTrue},
    {"continue_final_message", IsFalse},
};

constexpr UnsupportedField kUnsupportedTokenize[] = {
    {"tools", IsEmptyArray},
    {"chat_template", Never},
    {"mm_processor_kwargs", Never},
    {"add_generation_prompt", IsTrue},
    {"continue_final_message", IsFalse},
    {"return_token_strs", IsFalse},
};

// The last one says how to call tools, of which there are none.
constexpr const char* kIgnored[] = {"user",
                                    "metadata",
                                    "store",
                                    "service_tier",
                                    "safety_identifier",
                                    "prompt_cache_key",
                                    "parallel_tool_calls"};

void ReadMaxTokens(Fields& fields, GenerationRequest* request) {
  std::optional<int64_t> max_completion_tokens;
  fields.Read("max_tokens", &request->max_tokens);
  fields.Read("max_completion_tokens", &max_completion_tokens);
  if (!max_completion_tokens) return;
  if (*max_completion_tokens < 1)  // the core knows one name only
    fields.Fail(error::OutOfRange("max_completion_tokens", "1..context - prompt", *max_completion_tokens));
  if (request->max_tokens && *request->max_tokens != *max_completion_tokens) {
    fields.Fail(error::Invalid("max_completion_tokens",
                               fmt::format("max_completion_tokens ({}) and max_tokens ({}) must be equal",
                                           *max_completion_tokens, *request->max_tokens)));
  }
  request->max_tokens = max_completion_tokens;
}

// An int64, taken modulo 2^64.
void ReadSeed(Fields& fields, GenerationRequest* request) {
  std::optional<int64_t> seed;
  fields.Read("seed", &seed);
  if (seed) request->seed = static_cast<uint64_t>(*seed);
}

void ReadLogitBias(Fields& fields, GenerationRequest* request) {
  const Json* biases = fields.Find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object())
    return fields.Fail(WrongType("logit_bias", "an object from token id to bias", *biases));
  for (const auto& member : biases->items()) {
    const std::string& name = member.key();
    int64_t id = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
    if (error != std::errc() || end != name.data() + name.size())
      return fields.Fail(error::InvalidValue("logit_bias", "an object with token ids as keys", name));
    const absl::StatusOr<double> bias = AsNumber(member.value(), fmt::format("logit_bias[{}]", id));
    if (!bias.ok()) return fields.Fail(bias.status());
    request->logit_bias.emplace_back(id, *bias);
  }
}

void RefuseAll(Fields& fields, std::span<const UnsupportedField> unsupported, const std::string& model) {
  for (const UnsupportedField& field : unsupported) {
    const Json* value = fields.Find(field.name);
    if (value != nullptr && !field.is_neutral(*value)) fields.Fail(error::Unsupported(field.name, model));
  }
}

}  // namespace

void RefuseUnsupportedTokenize(Fields& fields, const std::string& model) {
  RefuseAll(fields, kUnsupportedTokenize, model);
}

void ReadTemplateFlags(Fields& fields, std::map<std::string, bool>* flags) {
  const Json* arguments = fields.Find("chat_template_kwargs");
  if (arguments == nullptr) return;
  if (!arguments->is_object()) return fields.Fail(WrongType("chat_template_kwargs", "an object", *arguments));
  for (const auto& member : arguments->items()) {
    if (!member.value().is_boolean())
      return fields.Fail(WrongType(fmt::format("chat_template_kwargs.{}", EscapedValue(member.key())),
                                   "true or false", member.value()));
    (*flags)[member.key()] = member.value().get<bool>();
  }
}

void ReadModel(Fields& fields, std::string* model) {
  std::optional<std::string> name;
  fields.Read("model", &name);
  if (!name) return fields.Fail(error::Required("model"));
  if (name->empty() || name->size() > static_cast<size_t>(limits::kModelNameBytes))
    return fields.Fail(
        error::InvalidValue("model", fmt::format("a name of 1..{} bytes", limits::kModelNameBytes), *name));
  for (const char c : *name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      return fields.Fail(error::InvalidValue("model", "a name without control characters", *name));
  }
  *model = *std::move(name);
}

void ReadSamplingFields(Fields& fields, GenerationRequest* request) {
  ReadMaxTokens(fields, request);
  fields.Read("min_tokens", &request->min_tokens);
  fields.Read("ignore_eos", &request->ignore_eos);
  fields.Read("n", &request->n);
  fields.Read("priority", &request->priority);
  fields.Read("tpot_target_ms", &request->tpot_target_ms);
  fields.Read("temperature", &request->temperature);
  fields.Read("top_p", &request->top_p);
  fields.Read("top_k", &request->top_k);
  fields.Read("min_p", &request->min_p);
  fields.Read("repetition_penalty", &request->repetition_penalty);
  fields.Read("frequency_penalty", &request->frequency_penalty);
  fields.Read("presence_penalty", &request->presence_penalty);
  ReadSeed(fields, request);
  ReadLogitBias(fields, request);
}

void ReadStop(Fields& fields, GenerationRequest* request) {
  fields.Read("stop_token_ids", &request->stop_token_ids);
  const Json* stop = fields.Find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) {
    request->stop.push_back(stop->get<std::string>());
    return;
  }
  if (!stop->is_array()) return fields.Fail(WrongType("stop", "text or an array of texts", *stop));
  for (const Json& element : *stop) {
    absl::StatusOr<std::string> text = AsText(element, fmt::format("stop[{}]", request->stop.size()));
    if (!text.ok()) return fields.Fail(text.status());
    request->stop.push_back(*std::move(text));
  }
}

void ReadStreamFields(Fields& fields, const std::string& model, StreamFields* stream) {
  fields.Read("stream", &stream->stream);
  const Json* options = fields.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return fields.Fail(WrongType("stream_options", "an object", *options));
  if (!stream->stream)
    return fields.Fail(error::Invalid("stream_options", "stream_options needs stream: true"));
  Fields inner(*options, "stream_options");
  inner.Read("include_usage", &stream->include_usage);
  inner.Read("include_drafts", &stream->include_drafts);
  inner.Ignore("include_obfuscation");  // there is none
  const Json* continuous = inner.Find("continuous_usage_stats");
  if (continuous != nullptr && !IsFalse(*continuous))
    inner.Fail(error::Unsupported("stream_options.continuous_usage_stats", model));
  stream->unknown_fields = inner.NumUnknown();
  fields.Fail(inner.status());
}

void RefuseUnsupported(Fields& fields, const GenerationRequest& request) {
  for (const char* name : kIgnored) fields.Ignore(name);
  RefuseAll(fields, kUnsupported, request.model);
  std::optional<int64_t> best_of;
  fields.Read("best_of", &best_of);
  const int64_t n = request.n.value_or(1);
  if (best_of && *best_of != n)
    fields.Fail(
        error::UnsupportedValue("best_of", fmt::format("best_of ({}) must equal n ({})", *best_of, n)));
}

}  // namespace tandem::gateway::http
