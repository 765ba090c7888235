#include "gateway/http/answer_format.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iterator>
#include <numeric>

#include "gateway/http/json_text.h"

namespace tandem::gateway::http {

const char* FinishReasonName(Finished::Reason reason) {
  return reason == Finished::Reason::kStop ? "stop" : "length";
}

AnswerFormat::AnswerFormat(AnswerOptions options, const char* id_prefix, const char* whole_object,
                           const char* event_object)
    : options_(std::move(options)),
      id_prefix_(id_prefix),
      whole_object_(whole_object),
      event_object_(event_object) {}

void AnswerFormat::OnStarted(const Started& started, absl::Time created) {
  started_ = started;
  created_ = absl::ToUnixSeconds(created);
  num_choices_ = static_cast<int>(started.prompt_tokens.size() * options_.choices_per_prompt);
  event_head_ = "data: ";
  AppendHead(event_object_, &event_head_);
}

void AnswerFormat::AppendHead(const char* object, std::string* out) const {
  *out += "{\"id\":";
  AppendJsonText(id_prefix_ + started_.request_id, out);
  fmt::format_to(std::back_inserter(*out), ",\"object\":\"{}\",\"created\":{},\"model\":", object, created_);
  AppendJsonText(started_.model, out);
  *out += ",\"system_fingerprint\":";
  if (started_.system_fingerprint.empty()) {
    *out += "null";
  } else {
    AppendJsonText(started_.system_fingerprint, out);
  }
  *out += ",\"choices\":[";
}

void AnswerFormat::AppendUsage(std::string* out) const {
  const int64_t prompt_tokens =
      std::accumulate(started_.prompt_tokens.begin(), started_.prompt_tokens.end(), int64_t{0});
  fmt::format_to(std::back_inserter(*out),
                 "\"usage\":{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},"
                 "\"prompt_tokens_details\":{{\"cached_tokens\":{}}}",
                 prompt_tokens, output_tokens_, prompt_tokens + output_tokens_,
                 started_.cached_prompt_tokens);
  if (options_.prediction_tokens) {
    fmt::format_to(std::back_inserter(*out),
                   ",\"completion_tokens_details\":{{\"accepted_prediction_tokens\":{},"
                   "\"rejected_prediction_tokens\":{}}}",
                   accepted_, checked_ - accepted_);
  }
  *out += '}';
}

void AnswerFormat::CountUsage(const Finished& finished) {
  output_tokens_ += finished.output_tokens;
  drafted_ += finished.drafted;
  checked_ += finished.checked;
  accepted_ += finished.accepted;
  AddCounts(finished.rounds_by_accepted, rounds_by_accepted_);
}

// The names are vLLM's, num_proposed_tokens is ours. Ratios of nothing are null.
void AnswerFormat::AppendMetrics(std::string* out) const {
  const int64_t steps = std::accumulate(rounds_by_accepted_.begin(), rounds_by_accepted_.end(), int64_t{0});
  const auto ratio = [](int64_t part, int64_t whole, double offset) -> std::string {
    if (whole == 0) return "null";
    return fmt::format("{}", offset + static_cast<double>(part) / static_cast<double>(whole));
  };
  fmt::format_to(std::back_inserter(*out),
                 ",\"metrics\":{{\"speculative_decoding\":{{\"mean_acceptance_length\":{},"
                 "\"draft_acceptance_rate\":{},\"acceptance_histogram\":[{}],\"num_spec_steps\":{},"
                 "\"num_accepted_draft_tokens\":{},\"num_draft_tokens\":{},\"num_spec_tokens\":{},"
                 "\"num_proposed_tokens\":{}}}}}",
                 ratio(accepted_, steps, 1), ratio(accepted_, checked_, 0),
                 fmt::join(rounds_by_accepted_, ","), steps, accepted_, checked_,
                 rounds_by_accepted_.empty() ? 0 : rounds_by_accepted_.size() - 1, drafted_);
}

void AnswerFormat::AppendSpansField(const ChoiceOutput& output, std::string* out) const {
  if (!options_.drafted_spans) return;
  *out += ",\"drafted_spans\":[";
  for (const TextSpan& span : output.drafted_spans) {
    if (&span != &output.drafted_spans.front()) *out += ',';
    fmt::format_to(std::back_inserter(*out), "[{},{}]", span.begin, span.end);
  }
  *out += ']';
}

void AnswerFormat::BeginEvent(std::string* out) const { *out += event_head_; }

// With include_usage every event but the last has a null usage, as OpenAI's.
void AnswerFormat::EndEvent(std::string* out) const {
  *out += options_.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n";
}

void AnswerFormat::AppendOutput(const ChoiceOutput& output, std::string* out) {
  if (!output.text.empty() || (options_.logprobs && !output.tokens.empty())) {
    BeginEvent(out);
    AppendDeltaChoice(output, out);
    EndEvent(out);
  }
  if (!output.finished) return;
  CountUsage(*output.finished);
  BeginEvent(out);
  AppendFinishChoice(*output.finished, out);
  EndEvent(out);
}

void AnswerFormat::AppendClosing(std::string* out) {
  if (options_.include_usage) {
    BeginEvent(out);
    *out += "],";
    AppendUsage(out);
    if (options_.speculation_metrics) AppendMetrics(out);
    *out += "}\n\n";
  }
  *out += "data: [DONE]\n\n";
}

std::string AnswerFormat::Whole(const std::vector<ChoiceOutput>& outputs) {
  std::string body;
  AppendHead(whole_object_, &body);
  for (const ChoiceOutput& output : outputs) {
    if (&output != &outputs.front()) body += ',';
    AppendWholeChoice(output, &body);
    CountUsage(*output.finished);
  }
  body += "],";
  AppendUsage(&body);
  if (options_.speculation_metrics) AppendMetrics(&body);
  body += '}';
  return body;
}

}  // namespace tandem::gateway::http
