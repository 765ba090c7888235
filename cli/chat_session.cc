#include "cli/chat_session.h"

#include <utility>

#include "absl/time/clock.h"
#include "common/base/status.h"

namespace tandem::cli {

ChatSession::ChatSession(const Address& http, ChatOptions options)
    : client_(http), options_(std::move(options)) {
  Reset();
}

void ChatSession::Reset() {
  messages_ = nlohmann::json::array();
  if (!options_.system.empty()) messages_.push_back({{"role", "system"}, {"content", options_.system}});
}

absl::StatusOr<ChatSession::Answer> ChatSession::Ask(const std::string& question,
                                                     const std::function<bool(std::string_view)>& on_text) {
  nlohmann::json messages = messages_;
  messages.push_back({{"role", "user"}, {"content", question}});
  nlohmann::json request = {{"model", options_.model},
                            {"messages", messages},
                            {"stream", true},
                            {"stream_options", {{"include_usage", true}}}};
  if (options_.temperature) request["temperature"] = *options_.temperature;
  if (options_.seed) request["seed"] = *options_.seed;
  if (options_.max_tokens) request["max_tokens"] = *options_.max_tokens;

  Answer answer;
  absl::Status event_error;
  const absl::Time begin = absl::Now();
  RETURN_IF_ERROR(client_.Stream("/v1/chat/completions", request, [&](std::string_view data) {
    const auto event = nlohmann::json::parse(data, nullptr, /*allow_exceptions=*/false);
    if (!event.is_object()) {
      event_error = Internal("the server sent an event that is no JSON object");
      return false;
    }
    if (event.contains("error")) {
      event_error = Unavailable("{}", ErrorMessage({200, std::string(data)}));
      return false;
    }
    if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
      answer.prompt_tokens = usage->value("prompt_tokens", int64_t{0});
      answer.output_tokens = usage->value("completion_tokens", int64_t{0});
    }
    const auto choices = event.find("choices");
    if (choices == event.end() || !choices->is_array() || choices->empty()) return true;
    const auto delta = (*choices)[0].find("delta");
    if (delta == (*choices)[0].end() || !delta->contains("content") || !(*delta)["content"].is_string())
      return true;
    const std::string text = (*delta)["content"].get<std::string>();
    if (text.empty()) return true;
    if (answer.text.empty()) answer.first_text = absl::Now() - begin;
    answer.text += text;
    return on_text(text);
  }));
  RETURN_IF_ERROR(event_error);
  answer.total = absl::Now() - begin;
  messages_ = std::move(messages);
  messages_.push_back({{"role", "assistant"}, {"content", answer.text}});
  return answer;
}

std::string FormatSpeed(const ChatSession::Answer& answer) {
  const double seconds = absl::ToDoubleSeconds(answer.total - answer.first_text);
  const double speed = answer.output_tokens > 1 && seconds > 0 ? (answer.output_tokens - 1) / seconds : 0;
  return fmt::format("[{} tokens, {:.1f} tokens/s, first after {:.0f} ms]", answer.output_tokens, speed,
                     absl::ToDoubleMilliseconds(answer.first_text));
}

}  // namespace tandem::cli
