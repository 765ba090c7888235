// The completions API's choices, with logprobs as four lists side by side.
#include <fmt/format.h>

#include <iterator>
#include <map>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "gateway/http/answer_format.h"
#include "gateway/http/json_text.h"

namespace tandem::gateway::http {
namespace {

// Characters, as clients in Python count them; a character split over tokens counts where it begins.
int64_t NumCharactersBegun(std::string_view bytes) {
  int64_t characters = 0;
  for (const char c : bytes) characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  return characters;
}

// {"text": logprob, ...}: the likeliest tokens, and the chosen one if it is not among them. Tokens that read
// the same keep the likelier one's value.
void AppendTop(const DeltaToken& token, std::string* out) {
  absl::flat_hash_set<std::string> seen;
  *out += '{';
  const auto append = [&](std::string_view bytes, float logprob) {
    std::string name;
    AppendJsonText(bytes, &name);
    if (!seen.insert(name).second) return;
    if (seen.size() > 1) *out += ',';
    *out += name;
    *out += ':';
    AppendJsonLogprob(logprob, out);
  };
  for (const DeltaToken::Top& top : token.top) append(top.bytes, top.logprob);
  append(token.bytes, token.logprob.value_or(-9999.0f));
  *out += '}';
}

class CompletionFormat : public AnswerFormat {
 public:
  explicit CompletionFormat(AnswerOptions options)
      : AnswerFormat(std::move(options), "cmpl-", "text_completion", "text_completion") {}

  void AppendOpening(std::string*) override {}

 private:
  void AppendWholeChoice(const ChoiceOutput& output, std::string* out) override {
    AppendChoice(output, out);
    fmt::format_to(std::back_inserter(*out), ",\"finish_reason\":\"{}\"}}",
                   FinishReasonName(output.finished->reason));
  }

  void AppendDeltaChoice(const ChoiceOutput& output, std::string* out) override {
    AppendChoice(output, out);
    AppendSpansField(output, out);
    *out += ",\"finish_reason\":null}";
  }

  void AppendFinishChoice(const Finished& finished, std::string* out) override {
    fmt::format_to(std::back_inserter(*out),
                   "{{\"index\":{},\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"{}\"}}",
                   finished.choice, FinishReasonName(finished.reason));
  }

  void AppendChoice(const ChoiceOutput& output, std::string* out) {
    fmt::format_to(std::back_inserter(*out), "{{\"index\":{},\"text\":", output.choice);
    AppendJsonText(output.text, out);
    *out += ",\"logprobs\":";
    if (options().logprobs) {
      AppendLogprobs(output, out);
    } else {
      *out += "null";
    }
  }

  void AppendLogprobs(const ChoiceOutput& output, std::string* out) {
    std::string logprobs, tops, offsets;
    int64_t& offset = text_offsets_[output.choice];
    *out += "{\"tokens\":[";
    for (const DeltaToken& token : output.tokens) {
      if (&token != &output.tokens.front()) {
        for (std::string* list : {out, &logprobs, &tops, &offsets}) *list += ',';
      }
      AppendJsonText(token.bytes, out);
      AppendJsonLogprob(token.logprob.value_or(-9999.0f), &logprobs);
      AppendTop(token, &tops);
      fmt::format_to(std::back_inserter(offsets), "{}", offset);
      offset += NumCharactersBegun(token.bytes);
    }
    fmt::format_to(std::back_inserter(*out),
                   "],\"token_logprobs\":[{}],\"top_logprobs\":[{}],\"text_offset\":[{}]}}", logprobs, tops,
                   offsets);
  }

  std::map<int32_t, int64_t> text_offsets_;  // by choice: characters of its tokens so far
};

}  // namespace

std::unique_ptr<AnswerFormat> NewCompletionFormat(AnswerOptions options) {
  return std::make_unique<CompletionFormat>(std::move(options));
}

}  // namespace tandem::gateway::http
