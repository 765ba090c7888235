// The batcher's way out: reported tokens become text, events and, at the end, one summary.
#include <algorithm>
#include <utility>

#include "common/base/sha256.h"
#include "gateway/admission/batcher.h"
#include "gateway/errors.h"

namespace tandem::gateway {
namespace {

DeltaToken MakeToken(int32_t id, const sampling::TokenLogprobs* logprobs, const text::Tokenizer& tokenizer) {
  DeltaToken token;
  token.id = id;
  if (logprobs == nullptr) return token;
  // Rows of the embedding beyond the tokenizer's ids stand for nothing.
  const auto bytes = [&](int32_t t) {
    return t < tokenizer.vocab_size() ? std::string(tokenizer.TokenBytes(t)) : std::string();
  };
  token.bytes = bytes(id);
  token.logprob = logprobs->chosen;
  for (const auto& [top_id, logprob] : logprobs->top) token.top.push_back({top_id, bytes(top_id), logprob});
  return token;
}

bool Contains(const std::vector<int32_t>& sorted, int32_t id) {
  return std::binary_search(sorted.begin(), sorted.end(), id);
}

}  // namespace

// `report` has passed its check.
void Batcher::Record(Sequence& sequence, SequenceReport&& report, Replica& replica) {
  Request& request = *sequence.request;
  const absl::Duration now = clock_.Now();
  sequence.computed_length = report.computed_length;
  sequence.drafted = static_cast<int64_t>(report.drafted);
  sequence.checked = static_cast<int64_t>(report.checked);
  sequence.accepted = static_cast<int64_t>(report.accepted);
  sequence.rounds.assign(report.rounds_by_accepted.begin(), report.rounds_by_accepted.end());
  if (!sequence.cached_prompt_tokens) {
    sequence.cached_prompt_tokens = static_cast<int32_t>(
        std::min<uint32_t>(report.cached_length, static_cast<uint32_t>(sequence.prompt_length)));
  }

  Delta delta;
  delta.choice = sequence.choice;
  delta.first_index = sequence.num_output();
  bool stop_text = false;
  const size_t num_repeated = sequence.ids.size() - report.first_index;
  for (size_t i = num_repeated; i < report.token_ids.size() && !stop_text; ++i) {
    const int32_t id = report.token_ids[i];
    const bool with_logprobs = request.params.num_logprobs.has_value();
    sequence.ids.push_back(id);
    delta.tokens.push_back(MakeToken(id, with_logprobs ? &report.logprobs[i] : nullptr, tokenizer_));
    const bool drafted = !report.drafted_marks.empty() && report.drafted_marks[i] != 0;
    delta.tokens.back().drafted = drafted;
    // EOS and stop tokens have no text; whatever follows a stop text is none of the client's business.
    const size_t text_before = delta.text.size();
    if (!Contains(request.stop_token_ids, id)) stop_text = sequence.text->Push(id, delta.text);
    if (drafted && delta.text.size() > text_before) {
      AppendSpans({{0, static_cast<uint32_t>(delta.text.size() - text_before)}}, text_before,
                  delta.drafted_spans);
    }
  }
  const bool ended = report.end == SequenceEnd::kStop || report.end == SequenceEnd::kLength;
  if (ended && !stop_text) stop_text = sequence.text->Finish(delta.text);

  if (report.end == SequenceEnd::kRunning && stop_text) {
    replica.Cancel(sequence);
  } else if (report.end != SequenceEnd::kRunning) {
    replica.plan.acknowledgements.push_back({sequence.id, sequence.epoch, report.length});
    replica.running.erase(sequence.id);
  }

  // A sequence that is only sent back has not begun.
  if (report.end != SequenceEnd::kPreempted && report.end != SequenceEnd::kFailed) EmitStarted(request);
  Deliver(sequence, std::move(delta), now);

  if (stop_text || ended) {
    const bool stopped = stop_text || Contains(request.stop_token_ids, sequence.ids.back());
    FinishSequence(sequence, stopped ? Finished::Reason::kStop : Finished::Reason::kLength);
  } else if (report.end == SequenceEnd::kPreempted) {
    RequeuePreempted(sequence, now);
  } else if (report.end == SequenceEnd::kFailed) {
    sequence.state = Sequence::State::kEnded;
    EndRequest(request, FailureOf(sequence, report.error));
  }
}

void Batcher::EmitStarted(Request& request) {
  if (std::exchange(request.started, true)) return;
  Started started;
  started.request_id = request.request_id;
  started.seed = request.params.sampling.seed;
  started.prompt_tokens = request.prompt_tokens;
  started.cached_prompt_tokens = request.sequences[0]->cached_prompt_tokens.value_or(0);
  started.system_fingerprint = SystemFingerprint(identity_);
  started.model = options_.model_id;
  request.sink->Call([&](EventSink& sink) { sink.OnStarted(started); });
}

void Batcher::Deliver(Sequence& sequence, Delta delta, absl::Duration now) {
  if (delta.tokens.empty() && delta.text.empty()) return;
  Request& request = *sequence.request;
  EmitStarted(request);
  if (!delta.tokens.empty()) {
    const bool first = delta.first_index == 0;
    if (first) {
      ++num_with_output_;
      sequence.first_token = now;
    }
    observer_.OnTokens(static_cast<int>(delta.tokens.size()),
                       first ? absl::ZeroDuration() : now - sequence.last_token);
    sequence.last_token = request.last_token = now;
    if (!request.first_token) request.first_token = now;
  }
  if (!sequence.echo.empty()) {
    std::vector<TextSpan> spans;
    AppendSpans(delta.drafted_spans, sequence.echo.size(), spans);
    delta.drafted_spans = std::move(spans);
    delta.text.insert(0, std::exchange(sequence.echo, {}));
  }
  request.sink->Call([&](EventSink& sink) { sink.OnDelta(std::move(delta)); });
}

void Batcher::FinishSequence(Sequence& sequence, Finished::Reason reason) {
  Request& request = *sequence.request;
  sequence.state = Sequence::State::kEnded;
  sequence.finished = true;
  if (sequence.num_output() > 0) --num_with_output_;

  pace_.PlaceFreed(clock_.Now());

  Finished finished;
  finished.choice = sequence.choice;
  finished.reason = reason;
  finished.prompt_tokens = sequence.prompt_length;
  finished.cached_prompt_tokens = sequence.cached_prompt_tokens.value_or(0);
  finished.output_tokens = sequence.num_output();
  finished.drafted = sequence.drafted_before + sequence.drafted;
  finished.checked = sequence.checked_before + sequence.checked;
  finished.accepted = sequence.accepted_before + sequence.accepted;
  finished.rounds_by_accepted = sequence.rounds_before;
  AddCounts(sequence.rounds, finished.rounds_by_accepted);
  request.finish_reason = reason == Finished::Reason::kStop ? "stop" : "length";
  const bool last = ++request.num_finished == static_cast<int>(request.sequences.size());
  request.sink->Call([&](EventSink& sink) {
    sink.OnFinished(finished);
    if (last) sink.OnAllFinished();
  });
  if (last) EndRequest(request, absl::OkStatus());
}

// The request's one end: whatever still waits or runs goes, an error is told, the record is deleted.
void Batcher::EndRequest(Request& request, const absl::Status& status) {
  const absl::Duration now = clock_.Now();
  RequestSummary summary;
  for (const auto& sequence : request.sequences) {
    if (sequence->state == Sequence::State::kQueued) {
      queue_.Remove(*sequence);
      if (sequence->epoch == 0) door_.Leave(1);
      if (sequence->failed_over) observer_.OnFailover("lost");
    } else if (sequence->state == Sequence::State::kRunning) {
      replicas_[sequence->replica].Cancel(*sequence);
      pace_.PlaceFreed(now);
    }
    sequence->state = Sequence::State::kEnded;
    if (sequence->num_output() > 0 && !sequence->finished) --num_with_output_;
    summary.output_tokens += sequence->num_output();
    summary.cached_prompt_tokens +=
        sequence->choice % request.params.n == 0 ? sequence->cached_prompt_tokens.value_or(0) : 0;
    summary.drafted += sequence->drafted_before + sequence->drafted;
    summary.checked += sequence->checked_before + sequence->checked;
    summary.accepted += sequence->accepted_before + sequence->accepted;
  }
  if (!status.ok()) request.sink->Call([&](EventSink& sink) { sink.OnError(status); });

  summary.request_id = request.request_id;
  if (!request.params.traceparent.empty()) summary.trace_id = request.params.traceparent.substr(3, 32);
  summary.api = request.api;
  summary.status = status;
  summary.finish_reason = status.ok() ? request.finish_reason : "";
  summary.seed = request.params.sampling.seed;
  summary.choices = static_cast<int>(request.sequences.size());
  for (const int32_t tokens : request.prompt_tokens) summary.prompt_tokens += tokens;
  summary.duration = now - request.received;
  summary.queue_time = request.admitted.value_or(now) - request.received;
  if (request.first_token) {
    summary.prefill_time = *request.first_token - *request.admitted;
    summary.time_to_first_token = *request.first_token - request.received;
    summary.decode_time = request.last_token - *request.first_token;
  }
  const Sequence& first = *request.sequences.front();
  if (first.num_output() > 1) {
    summary.time_per_output_token = (first.last_token - first.first_token) / (first.num_output() - 1);
  }
  observer_.OnRequestEnd(summary);

  deadlines_.erase({request.deadline, request.key});
  requests_.erase(request.key);
}

absl::Status Batcher::FailureOf(const Sequence& sequence, const absl::Status& reported) const {
  const Request& request = *sequence.request;
  switch (reported.code()) {
    case absl::StatusCode::kInvalidArgument:
      return error::Invalid("", EscapedValue(std::string(reported.message())));
    case absl::StatusCode::kResourceExhausted:
      return error::KvFull(limits::kMinRetryAfter);
    case absl::StatusCode::kDeadlineExceeded:
      return error::DeadlineExceeded(request.deadline - request.received);
    case absl::StatusCode::kDataLoss:
      return error::Corrupt(request.request_id);
    default:
      return error::InternalError(request.request_id);
  }
}

// Short, for clients to compare: equal weights and numerics give an equal text.
std::string SystemFingerprint(const std::optional<ModelIdentity>& identity) {
  if (!identity) return "";
  Sha256 hash;
  hash.Update(identity->fingerprint + "\n" + identity->numerics_id);
  return "fp_" + hash.Finish().substr(0, 16);
}

}  // namespace tandem::gateway
