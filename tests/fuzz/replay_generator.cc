#include "tests/fuzz/replay_generator.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/status.h"
#include "common/text/byte_level.h"
#include "common/text/detokenizer.h"
#include "gateway/errors.h"
#include "gateway/http/http_answer.h"
#include "gateway/limits.h"
#include "nlohmann/json.hpp"

namespace tandem::fuzz {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int32_t kContext = 2048;
constexpr size_t kOutputTokens = 4;
constexpr char kTemplate[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + "
    "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif "
    "%}";

// The bytes, a few merges, two special tokens.
std::string TokenizerJson() {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[text::ByteLevelAlphabet()[byte]] = byte;
  json merges = json::array();
  for (const auto& [left, right] : {std::pair("t", "h"), std::pair("th", "e"), std::pair("a", "a")}) {
    vocab[std::string(left) + right] = vocab.size();
    merges.push_back({left, right});
  }
  const size_t n = vocab.size();
  return json{{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}},
              {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
              {"added_tokens",
               {{{"id", n}, {"content", "<|im_start|>"}, {"special", true}},
                {{"id", n + 1}, {"content", "<|im_end|>"}, {"special", true}}}}}
      .dump();
}

class EndedGeneration : public gateway::Generation {
 public:
  explicit EndedGeneration(std::string id) : id_(std::move(id)) {}
  const std::string& request_id() const override { return id_; }

 private:
  const std::string id_;
};

int64_t ContentBytes(const ordered_json& messages) {
  int64_t bytes = 0;
  for (const auto& message : messages)
    bytes += static_cast<int64_t>(message["content"].get_ref<const std::string&>().size());
  return bytes;
}

}  // namespace

ReplayGenerator::ReplayGenerator() {
  auto tokenizer = text::Tokenizer::FromJson(TokenizerJson());
  auto chat_template = text::ChatTemplate::Create(kTemplate, "", "");
  TANDEM_CHECK(tokenizer.ok() && chat_template.ok());
  model_.tokenizer = *std::move(tokenizer);
  model_.chat_template = *std::move(chat_template);
  model_.vocab_size = model_.tokenizer->vocab_size();
  model_.max_position = kContext;
  facts_ = {"tiny", {"org/tiny"}, model_.vocab_size, kContext, {"enable_thinking"}};
}

absl::StatusOr<std::vector<int32_t>> ReplayGenerator::EncodeMessages(
    const ordered_json& messages, const std::map<std::string, bool>& flags) const {
  ASSIGN_OR_RETURN(const ordered_json checked, gateway::CheckMessages(messages));
  RETURN_IF_ERROR(gateway::CheckPromptBytes(ContentBytes(checked), kContext));
  return gateway::EncodeConversation(model_, facts_.id, checked, flags);
}

absl::StatusOr<std::vector<ReplayGenerator::Prompt>> ReplayGenerator::EncodePrompts(
    const gateway::GenerationRequest& request, const gateway::CheckedRequest& checked) const {
  std::vector<Prompt> prompts;
  if (request.messages) {
    Prompt prompt;
    ASSIGN_OR_RETURN(prompt.ids, EncodeMessages(*request.messages, request.chat_template_kwargs));
    prompts.push_back(std::move(prompt));
  }
  for (const auto& given : request.prompts) {
    Prompt prompt;
    if (const auto* words = std::get_if<std::string>(&given)) {
      ASSIGN_OR_RETURN(prompt.ids, gateway::EncodeText(model_, *words));
    } else {
      const auto& ids = std::get<std::vector<int64_t>>(given);
      ASSIGN_OR_RETURN(prompt.ids, gateway::CheckTokenIds("prompt", ids, facts_.vocab_size));
    }
    if (checked.echo) prompt.echo = TextOf(prompt.ids);
    prompts.push_back(std::move(prompt));
  }
  for (const Prompt& prompt : prompts) {
    ASSIGN_OR_RETURN(const int32_t budget,
                     gateway::OutputBudget(checked, static_cast<int64_t>(prompt.ids.size()), kContext));
    TANDEM_CHECK(budget >= 1 && budget + static_cast<int64_t>(prompt.ids.size()) <= kContext);
  }
  TANDEM_CHECK(!prompts.empty());
  return prompts;
}

absl::StatusOr<std::unique_ptr<gateway::Generation>> ReplayGenerator::Start(
    gateway::GenerationRequest request, gateway::EventSink& sink) {
  ASSIGN_OR_RETURN(const gateway::CheckedRequest checked, gateway::CheckRequest(request, facts_));
  ASSIGN_OR_RETURN(const std::vector<Prompt> prompts, EncodePrompts(request, checked));
  TANDEM_CHECK(checked.n >= 1 &&
               prompts.size() * checked.n <= static_cast<size_t>(gateway::limits::kChoicesPerRequest));
  Play(checked, prompts, sink);
  return std::make_unique<EndedGeneration>(request.request_id);
}

void ReplayGenerator::Play(const gateway::CheckedRequest& checked, const std::vector<Prompt>& prompts,
                           gateway::EventSink& sink) const {
  gateway::Started started{"r", checked.sampling.seed, {}, 1, "fp", facts_.id};
  for (const Prompt& prompt : prompts)
    started.prompt_tokens.push_back(static_cast<int32_t>(prompt.ids.size()));
  sink.OnStarted(started);
  int32_t choice = 0;
  for (const Prompt& prompt : prompts) {
    const size_t count = std::min(prompt.ids.size(), kOutputTokens);
    const std::vector<int32_t> output(prompt.ids.end() - static_cast<int64_t>(count), prompt.ids.end());
    for (int32_t i = 0; i < checked.n; ++i, ++choice) {
      gateway::Delta delta{choice, 0, prompt.echo + TextOf(output), {}, {}};
      for (const int32_t id : output) {
        gateway::DeltaToken token{.id = id, .drafted = id % 2 == 0, .bytes = {}, .logprob = {}, .top = {}};
        if (checked.num_logprobs) {
          token.bytes = model_.tokenizer->TokenBytes(id);
          token.logprob = id % 3 == 0 ? -std::numeric_limits<float>::infinity() : -0.25f;
          token.top.assign(*checked.num_logprobs, {id, token.bytes, *token.logprob});
        }
        delta.tokens.push_back(std::move(token));
      }
      if (!delta.text.empty()) delta.drafted_spans = {{0, static_cast<uint32_t>(delta.text.size())}};
      sink.OnDelta(std::move(delta));
      sink.OnFinished({.choice = choice,
                       .reason = gateway::Finished::Reason::kLength,
                       .prompt_tokens = static_cast<int32_t>(prompt.ids.size()),
                       .output_tokens = static_cast<int32_t>(count),
                       .rounds_by_accepted = {1, 2}});
    }
  }
  sink.OnAllFinished();
}

absl::StatusOr<std::vector<int32_t>> ReplayGenerator::Tokenize(const gateway::TokenizeRequest& request) {
  RETURN_IF_ERROR(gateway::CheckModelName(request.model, facts_));
  RETURN_IF_ERROR(gateway::CheckTemplateFlags(request.chat_template_kwargs, facts_));
  TANDEM_CHECK(request.text.has_value() != request.messages.has_value());
  if (request.messages) return EncodeMessages(*request.messages, request.chat_template_kwargs);
  RETURN_IF_ERROR(gateway::CheckPromptBytes(static_cast<int64_t>(request.text->size()), kContext));
  return gateway::EncodeText(model_, *request.text);
}

absl::StatusOr<std::string> ReplayGenerator::Detokenize(const std::string& model, const char* param,
                                                        const std::vector<int64_t>& ids) {
  RETURN_IF_ERROR(gateway::CheckModelName(model, facts_));
  if (ids.size() > size_t{kContext})
    return gateway::error::TooMany(param, static_cast<int64_t>(ids.size()), kContext);
  ASSIGN_OR_RETURN(const auto checked, gateway::CheckTokenIds(param, ids, facts_.vocab_size));
  return TextOf(checked);
}

gateway::ModelInfo ReplayGenerator::model_info() const {
  return {facts_.id, facts_.aliases, kContext, facts_.vocab_size, "fp", absl::FromUnixSeconds(5)};
}

std::string ReplayGenerator::TextOf(const std::vector<int32_t>& ids) const {
  text::Detokenizer detokenizer(*model_.tokenizer, /*skip_special=*/false);
  std::string out;
  for (const int32_t id : ids) out += detokenizer.Push(id);
  return out + detokenizer.Finish();
}

void CheckClientError(const absl::Status& status) {
  TANDEM_CHECK(!status.ok() && !status.message().empty());
  TANDEM_CHECK(status.message().size() <= static_cast<size_t>(gateway::limits::kErrorMessageBytes));
  const int http = gateway::HttpStatusOf(status);
  TANDEM_CHECK(http >= 400 && http < 500);
  const json body = json::parse(gateway::http::ErrorBody(status), nullptr, /*allow_exceptions=*/false);
  TANDEM_CHECK(body.is_object() && body["error"].is_object() && body["error"].size() == 4);
}

}  // namespace tandem::fuzz
