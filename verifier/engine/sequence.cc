#include "verifier/engine/sequence.h"

#include <algorithm>

#include "common/base/status.h"

namespace tandem::verifier {

Sequence::Sequence(StreamId stream, uint64_t admission_number, Admission&& admission)
    : stream_(stream),
      admission_number_(admission_number),
      admission_(std::move(admission)),
      max_len_(admission_.prompt_length + admission_.max_tokens) {
  admission_.tokens.reserve(max_len_);
  if (admission_.sampling.has_penalties()) {
    for (int32_t i = 0; i < confirmed_len(); ++i) {
      const int32_t token = admission_.tokens[i];
      i < admission_.prompt_length ? history.AddPrompt(token) : history.AddOutput(token);
    }
  }
  report.id = admission_.id;
  report.epoch = admission_.epoch;
  report.length = report.first_index = confirmed_len();
  if (missing() == 1) state_ = SequenceState::kDecoding;
  CheckInvariant();
}

bool Sequence::YieldsTo(const Sequence& other) const {
  if (admission_.priority != other.admission_.priority) {
    return admission_.priority < other.admission_.priority;
  }
  return admission_number_ > other.admission_number_;
}

void Sequence::AdvanceKv(int32_t rows) {
  TANDEM_CHECK(state_ != SequenceState::kEnded && rows >= 0);
  kv_len_ += rows;
  if (missing() == 1) state_ = SequenceState::kDecoding;
  CheckInvariant();
}

void Sequence::Confirm(int32_t token) {
  TANDEM_CHECK(state_ == SequenceState::kDecoding || missing() == 1);
  admission_.tokens.push_back(token);
  // The old anchor's KV is there: it was computed to sample this token.
  ++kv_len_;
  CheckInvariant();
}

SequenceEnd Sequence::EndOfTokens() const {
  if (output_len() >= 1 && output_len() > admission_.min_tokens &&
      std::ranges::find(admission_.stop_token_ids, anchor()) != admission_.stop_token_ids.end()) {
    return SequenceEnd::kStop;
  }
  return confirmed_len() == max_len_ ? SequenceEnd::kLength : SequenceEnd::kRunning;
}

void Sequence::End() {
  TANDEM_CHECK(state_ != SequenceState::kEnded && blocks.empty());
  state_ = SequenceState::kEnded;
}

std::span<const int32_t> Sequence::MaskedAt(int32_t index) const {
  if (index - admission_.prompt_length >= admission_.min_tokens) return {};
  return admission_.stop_token_ids;
}

void Sequence::CheckInvariant() const {
  TANDEM_CHECK(0 <= kv_len_ && kv_len_ < confirmed_len() && confirmed_len() <= max_len_);
}

namespace {

absl::Status ValidateIds(const char* field, std::span<const int32_t> ids, int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return InvalidArgument("{}[{}] must be in 0..{}, got {}", field, i, vocab_size - 1, ids[i]);
    }
  }
  return absl::OkStatus();
}

constexpr size_t kMaxStopTokenIds = 64;
constexpr int32_t kMaxLogprobs = 20;

}  // namespace

absl::Status ValidateAdmission(const Admission& admission, int32_t vocab_size, int32_t max_model_len) {
  if (admission.epoch == 0) return InvalidArgument("epoch must be at least 1, got 0");
  const size_t length = admission.tokens.size();
  if (length == 0) return InvalidArgument("token_ids must not be empty");
  if (admission.prompt_length < 1 || static_cast<size_t>(admission.prompt_length) > length) {
    return InvalidArgument("prompt_length must be in 1..{}, got {}", length, admission.prompt_length);
  }
  if (admission.max_tokens < 1) {
    return InvalidArgument("max_tokens must be at least 1, got {}", admission.max_tokens);
  }
  const int64_t max_len = int64_t{admission.prompt_length} + admission.max_tokens;
  if (max_len > max_model_len) {
    return InvalidArgument("prompt ({} tokens) + max_tokens ({}) exceed the context of {}",
                           admission.prompt_length, admission.max_tokens, max_model_len);
  }
  if (static_cast<int64_t>(length) > max_len) {
    return InvalidArgument("token_ids ({}) exceed prompt_length ({}) + max_tokens ({})", length,
                           admission.prompt_length, admission.max_tokens);
  }
  if (admission.min_tokens < 0 || admission.min_tokens > admission.max_tokens) {
    return InvalidArgument("min_tokens must be in 0..{}, got {}", admission.max_tokens, admission.min_tokens);
  }
  if (admission.stop_token_ids.size() > kMaxStopTokenIds) {
    return InvalidArgument("stop_token_ids must be at most {}, got {}", kMaxStopTokenIds,
                           admission.stop_token_ids.size());
  }
  if (admission.num_logprobs && (*admission.num_logprobs < 0 || *admission.num_logprobs > kMaxLogprobs)) {
    return InvalidArgument("num_logprobs must be in 0..{}, got {}", kMaxLogprobs, *admission.num_logprobs);
  }
  RETURN_IF_ERROR(ValidateIds("token_ids", admission.tokens, vocab_size));
  RETURN_IF_ERROR(ValidateIds("stop_token_ids", admission.stop_token_ids, vocab_size));
  return sampling::ValidateSamplingParams(admission.sampling, vocab_size);
}

}  // namespace tandem::verifier
