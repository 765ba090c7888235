// A conversation with a running gateway: keeps the turns, streams the answers.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/http_client.h"

namespace tandem::cli {

struct ChatOptions {
  std::string model = "default";
  std::string system = {};  // a system message before the first turn; empty = the template's own
  std::optional<double> temperature = {};
  std::optional<int64_t> seed = {};
  std::optional<int64_t> max_tokens = {};
  bool ignore_eos = false;  // run on to max_tokens
};

class ChatSession {
 public:
  ChatSession(const Address& http, ChatOptions options);

  struct Answer {
    std::string text;
    int64_t prompt_tokens = 0, output_tokens = 0;
    // Speculation, if the server tells: steps in which drafts were checked, drafts checked and accepted.
    int64_t draft_steps = 0, checked = 0, accepted = 0;
    absl::Duration first_text;  // from the request to the first text
    absl::Duration total;

    double tokens_per_second() const;  // from the first text on
    double acceptance() const { return checked > 0 ? static_cast<double>(accepted) / checked : 0; }
  };
  // Hears the answer as it comes, in pieces that the model wrote itself or that are accepted drafts.
  using TextSink = std::function<bool(std::string_view text, bool drafted)>;
  // Adds the question and its answer to the conversation; after an error neither. on_text returning false
  // ends the answer early: what came stays part of the conversation.
  absl::StatusOr<Answer> Ask(const std::string& question, const TextSink& on_text);

  void Reset();

 private:
  HttpClient client_;
  ChatOptions options_;
  nlohmann::json messages_;
};

// "[64 tokens, 82.1 tokens/s, first after 35 ms]", with ", 61 % of 92 drafts accepted, 3.1 tokens a step" if
// drafts were checked.
std::string FormatSpeed(const ChatSession::Answer& answer);

}  // namespace tandem::cli
