#include "cli/chat_session.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "cli/drafted_text.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

void ReadMetrics(const nlohmann::json& metrics, ChatSession::Answer& answer) {
  const auto speculation = metrics.find("speculative_decoding");
  if (speculation == metrics.end() || !speculation->is_object()) return;
  const auto read = [&](const char* name) -> int64_t {
    const auto found = speculation->find(name);
    return found != speculation->end() && found->is_number_integer() ? found->get<int64_t>() : 0;
  };
  answer.draft_steps = read("num_spec_steps");
  answer.checked = read("num_draft_tokens");
  answer.accepted = read("num_accepted_draft_tokens");
}

}  // namespace

ChatSession::ChatSession(const Address& http, ChatOptions options)
    : client_(http), options_(std::move(options)) {
  Reset();
}

void ChatSession::Reset() {
  messages_ = nlohmann::json::array();
  if (!options_.system.empty()) messages_.push_back({{"role", "system"}, {"content", options_.system}});
}

absl::StatusOr<ChatSession::Answer> ChatSession::Ask(const std::string& question, const TextSink& on_text) {
  nlohmann::json messages = messages_;
  messages.push_back({{"role", "user"}, {"content", question}});
  nlohmann::json request = {{"model", options_.model},
                            {"messages", messages},
                            {"stream", true},
                            {"stream_options", {{"include_usage", true}, {"include_drafts", true}}}};
  if (options_.temperature) request["temperature"] = *options_.temperature;
  if (options_.seed) request["seed"] = *options_.seed;
  if (options_.ignore_eos) request["ignore_eos"] = true;
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
    if (const auto metrics = event.find("metrics"); metrics != event.end() && metrics->is_object())
      ReadMetrics(*metrics, answer);
    const auto choices = event.find("choices");
    if (choices == event.end() || !choices->is_array() || choices->empty()) return true;
    const auto delta = (*choices)[0].find("delta");
    if (delta == (*choices)[0].end() || !delta->contains("content") || !(*delta)["content"].is_string())
      return true;
    const std::string text = (*delta)["content"].get<std::string>();
    if (text.empty()) return true;
    if (answer.text.empty()) answer.first_text = absl::Now() - begin;
    answer.text += text;
    const auto runs = CutAtSpans(text, (*choices)[0].value("drafted_spans", nlohmann::json()));
    if (!runs.ok()) {
      event_error = runs.status();
      return false;
    }
    return std::ranges::all_of(*runs, [&](const TextRun& run) { return on_text(run.text, run.drafted); });
  }));
  RETURN_IF_ERROR(event_error);
  answer.total = absl::Now() - begin;
  messages_ = std::move(messages);
  messages_.push_back({{"role", "assistant"}, {"content", answer.text}});
  return answer;
}

double ChatSession::Answer::tokens_per_second() const {
  const double seconds = absl::ToDoubleSeconds(total - first_text);
  return output_tokens > 1 && seconds > 0 ? static_cast<double>(output_tokens - 1) / seconds : 0;
}

std::string FormatSpeed(const ChatSession::Answer& answer) {
  std::string line = fmt::format("[{} tokens, {:.1f} tokens/s, first after {:.0f} ms", answer.output_tokens,
                                 answer.tokens_per_second(), absl::ToDoubleMilliseconds(answer.first_text));
  if (answer.checked > 0 && answer.draft_steps > 0) {
    line += fmt::format(", {:.0f} % of {} drafts accepted, {:.1f} tokens a step", 100 * answer.acceptance(),
                        answer.checked, 1 + static_cast<double>(answer.accepted) / answer.draft_steps);
  }
  return line + "]";
}

}  // namespace tandem::cli
