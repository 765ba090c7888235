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
};

class ChatSession {
 public:
  ChatSession(const Address& http, ChatOptions options);

  struct Answer {
    std::string text;
    int64_t prompt_tokens = 0, output_tokens = 0;
    absl::Duration first_text;  // from the request to the first text
    absl::Duration total;
  };
  // Adds the question and its answer to the conversation; after an error neither. on_text returning false
  // ends the answer early: what came stays part of the conversation.
  absl::StatusOr<Answer> Ask(const std::string& question,
                             const std::function<bool(std::string_view)>& on_text);

  void Reset();

 private:
  HttpClient client_;
  ChatOptions options_;
  nlohmann::json messages_;
};

// "[64 tokens, 82.1 tokens/s, first after 35 ms]"
std::string FormatSpeed(const ChatSession::Answer& answer);

}  // namespace tandem::cli
