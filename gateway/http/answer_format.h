// How one API writes a generation: whole, or as a stream of server-sent events. One object per request.
//
//   format->OnStarted(started, created);     // before anything else
//   stream:  AppendOpening, then per choice AppendDelta ... AppendFinish, then AppendClosing
//   whole:   AppendWhole
//
// Keeps per-choice state (text offsets) between calls. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gateway/admission/generator.h"

namespace tandem::gateway::http {

// What one choice produced: a stretch of it, or all.
struct ChoiceOutput {
  int32_t choice = 0;
  std::string text;
  std::vector<DeltaToken> tokens;
  std::vector<TextSpan> drafted_spans;
  std::optional<Finished> finished;  // after the text above
};

struct AnswerOptions {
  std::string request_id;
  int64_t choices_per_prompt = 1;
  bool logprobs = false;
  bool include_usage = false;  // of a stream
  // vLLM's metrics.speculative_decoding: in the body, or in a stream's usage event.
  bool speculation_metrics = false;
  // usage.completion_tokens_details with OpenAI's names for a client's own prediction; here they count
  // drafts.
  bool prediction_tokens = false;
  bool drafted_spans = false;  // of a stream: with each choice's delta
};

class AnswerFormat {
 public:
  virtual ~AnswerFormat() = default;

  void OnStarted(const Started& started, absl::Time created);

  // Appends "data: {...}\n\n" events.
  virtual void AppendOpening(std::string* out) = 0;
  void AppendOutput(const ChoiceOutput& output, std::string* out);
  void AppendClosing(std::string* out);  // usage, if asked for, and [DONE]

  // The answer's body. `outputs` has one entry per choice, each finished.
  std::string Whole(const std::vector<ChoiceOutput>& outputs);

 protected:
  AnswerFormat(AnswerOptions options, const char* id_prefix, const char* whole_object,
               const char* event_object);

  // One element of "choices" each.
  virtual void AppendWholeChoice(const ChoiceOutput& output, std::string* out) = 0;
  virtual void AppendDeltaChoice(const ChoiceOutput& output, std::string* out) = 0;
  virtual void AppendFinishChoice(const Finished& finished, std::string* out) = 0;

  void BeginEvent(std::string* out) const;
  void EndEvent(std::string* out) const;
  // ,"drafted_spans":[[0,5],...] if asked for.
  void AppendSpansField(const ChoiceOutput& output, std::string* out) const;
  int num_choices() const { return num_choices_; }
  const AnswerOptions& options() const { return options_; }

 private:
  void AppendHead(const char* object, std::string* out) const;
  void AppendUsage(std::string* out) const;
  void AppendMetrics(std::string* out) const;
  void CountUsage(const Finished& finished);

  const AnswerOptions options_;
  const char* const id_prefix_;
  const char* const whole_object_;
  const char* const event_object_;
  std::string event_head_;  // the same for each event
  Started started_;
  int64_t created_ = 0;
  int num_choices_ = 0;
  int64_t output_tokens_ = 0;
  int64_t drafted_ = 0, checked_ = 0, accepted_ = 0;
  std::vector<int64_t> rounds_by_accepted_;
};

const char* FinishReasonName(Finished::Reason reason);

// Chat: "chat.completion" and "chat.completion.chunk".
std::unique_ptr<AnswerFormat> NewChatFormat(AnswerOptions options);
// Completions: "text_completion" for both.
std::unique_ptr<AnswerFormat> NewCompletionFormat(AnswerOptions options);

}  // namespace tandem::gateway::http
