// The chat API's choices.
#include <fmt/format.h>

#include <iterator>

#include "gateway/http/answer_format.h"
#include "gateway/http/json_text.h"

namespace tandem::gateway::http {
namespace {

void AppendToken(std::string_view bytes, float logprob, std::string* out) {
  *out += "{\"token\":";
  AppendJsonText(bytes, out);
  *out += ",\"logprob\":";
  AppendJsonLogprob(logprob, out);
  *out += ",\"bytes\":";
  AppendJsonBytes(bytes, out);
}

void AppendLogprobs(const std::vector<DeltaToken>& tokens, std::string* out) {
  *out += "{\"content\":[";
  for (const DeltaToken& token : tokens) {
    if (&token != &tokens.front()) *out += ',';
    AppendToken(token.bytes, token.logprob.value_or(-9999.0f), out);
    *out += ",\"top_logprobs\":[";
    for (const DeltaToken::Top& top : token.top) {
      if (&top != &token.top.front()) *out += ',';
      AppendToken(top.bytes, top.logprob, out);
      *out += '}';
    }
    *out += "]}";
  }
  *out += "],\"refusal\":null}";
}

class ChatFormat : public AnswerFormat {
 public:
  explicit ChatFormat(AnswerOptions options)
      : AnswerFormat(std::move(options), "chatcmpl-", "chat.completion", "chat.completion.chunk") {}

  void AppendOpening(std::string* out) override {
    for (int choice = 0; choice < num_choices(); ++choice) {
      BeginEvent(out);
      fmt::format_to(std::back_inserter(*out),
                     "{{\"index\":{},\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\"logprobs\":null,"
                     "\"finish_reason\":null}}",
                     choice);
      EndEvent(out);
    }
  }

 private:
  void AppendWholeChoice(const ChoiceOutput& output, std::string* out) override {
    fmt::format_to(std::back_inserter(*out),
                   "{{\"index\":{},\"message\":{{\"role\":\"assistant\",\"content\":", output.choice);
    AppendJsonText(output.text, out);
    *out += ",\"refusal\":null},\"logprobs\":";
    AppendLogprobsOrNull(output, out);
    fmt::format_to(std::back_inserter(*out), ",\"finish_reason\":\"{}\"}}",
                   FinishReasonName(output.finished->reason));
  }

  void AppendDeltaChoice(const ChoiceOutput& output, std::string* out) override {
    fmt::format_to(std::back_inserter(*out), "{{\"index\":{},\"delta\":{{\"content\":", output.choice);
    AppendJsonText(output.text, out);
    *out += "},\"logprobs\":";
    AppendLogprobsOrNull(output, out);
    AppendSpansField(output, out);
    *out += ",\"finish_reason\":null}";
  }

  void AppendFinishChoice(const Finished& finished, std::string* out) override {
    fmt::format_to(std::back_inserter(*out),
                   "{{\"index\":{},\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"{}\"}}",
                   finished.choice, FinishReasonName(finished.reason));
  }

  void AppendLogprobsOrNull(const ChoiceOutput& output, std::string* out) const {
    if (options().logprobs) {
      AppendLogprobs(output.tokens, out);
    } else {
      *out += "null";
    }
  }
};

}  // namespace

std::unique_ptr<AnswerFormat> NewChatFormat(AnswerOptions options) {
  return std::make_unique<ChatFormat>(std::move(options));
}

}  // namespace tandem::gateway::http
