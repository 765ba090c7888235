#include "gateway/admission/batcher.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "gateway/errors.h"

namespace tandem::gateway {

Batcher::Batcher(BatcherOptions options, const text::Tokenizer& tokenizer, std::vector<VerifierLink*> links,
                 std::vector<VerifierLink::Listener*> listeners, QueueDoor& door, const Clock& clock,
                 Observer& observer)
    : options_(std::move(options)),
      tokenizer_(tokenizer),
      listeners_(std::move(listeners)),
      door_(door),
      clock_(clock),
      observer_(observer),
      jitter_(static_cast<std::minstd_rand::result_type>(options_.jitter_seed)) {
  TANDEM_CHECK(links.size() == listeners_.size());
  replicas_.reserve(links.size());
  for (VerifierLink* link : links) replicas_.emplace_back(*link);
}

Batcher::~Batcher() = default;

// --- Events
// -------------------------------------------------------------------------------------------------------

void Batcher::Submit(uint64_t key, Submission submission) {
  auto request = std::make_unique<Request>();
  request->key = key;
  request->sink = std::move(submission.sink);
  request->request_id = std::move(submission.request_id);
  request->api = std::move(submission.api);
  request->params = std::move(submission.params);
  request->received = submission.received;
  request->deadline = submission.deadline;
  request->wall_deadline = submission.wall_deadline;
  request->had_verifier = any_ready();

  const CheckedRequest& params = request->params;
  for (size_t p = 0; p < submission.prompts.size(); ++p) {
    Submission::Prompt& prompt = submission.prompts[p];
    request->prompt_tokens.push_back(static_cast<int32_t>(prompt.ids.size()));
    for (int32_t i = 0; i < params.n; ++i) {
      auto sequence = std::make_unique<Sequence>();
      sequence->id = next_id_++;
      sequence->request = request.get();
      sequence->choice = static_cast<int32_t>(p) * params.n + i;
      sequence->seed = params.sampling.seed + static_cast<uint64_t>(i);  // modulo 2^64
      sequence->ids = prompt.ids;
      sequence->prompt_length = static_cast<int32_t>(prompt.ids.size());
      sequence->max_tokens = prompt.max_tokens;
      sequence->text = std::make_unique<TextStream>(tokenizer_, params.stop, params.min_tokens);
      sequence->echo = prompt.echo;
      queue_.Add(*sequence);
      request->sequences.push_back(std::move(sequence));
    }
  }
  deadlines_.emplace(std::make_pair(request->deadline, key), request.get());
  requests_.emplace(key, std::move(request));
}

void Batcher::Cancel(uint64_t key) {
  const auto it = requests_.find(key);
  if (it != requests_.end()) EndRequest(*it->second, error::Cancelled());
}

void Batcher::FailAll(const absl::Status& status) {
  while (!requests_.empty()) EndRequest(*requests_.begin()->second, status);
}

void Batcher::OnHello(int replica_index, VerifierHello hello) {
  Replica& replica = replicas_[replica_index];
  if (replica.state() == Replica::State::kClosing) return;
  if (replica.state() != Replica::State::kConnecting) {
    Violation(replica_index, nullptr, "second_hello");
    return;
  }
  const ExpectedVerifier expected{identity_, options_.tokenizer_hash, options_.vocab_size,
                                  options_.eos_token_ids};
  if (const auto mismatch = CheckHello(hello, expected)) {
    observer_.OnHandshakeFailure(replica_index, mismatch->field);
    replica.mismatched = true;
    const absl::Status why = FailedPrecondition("{}", mismatch->message);
    replica.Close(why);
    TellState(replica, why);
    return;
  }
  identity_ = hello.identity;
  had_verifier_ = true;
  replica.BecomeReady(std::move(hello), clock_.Now());
  TellState(replica, absl::OkStatus());
}

void Batcher::OnReport(int replica_index, Report report) {
  Replica& replica = replicas_[replica_index];
  if (replica.state() == Replica::State::kConnecting) {
    Violation(replica_index, nullptr, "report_before_hello");
    return;
  }
  if (!replica.open()) return;
  if (const char* check = CheckReport(report, replica.next_report(), replica.last_plan(), replica.hello())) {
    Violation(replica_index, nullptr, check);
    return;
  }
  replica.TakeFigures(report, clock_.Now());
  for (SequenceReport& entry : report.sequences) {
    if (entry.id == 0 || entry.id >= next_id_) {
      Violation(replica_index, nullptr, "sequence_id");
      return;
    }
    const auto it = replica.running.find(entry.id);
    if (it == replica.running.end() || entry.epoch < it->second->epoch) {
      // Cancelled, or of an earlier epoch: nothing of it counts, but the verifier may forget it once we have
      // heard its end.
      if (it != replica.running.end()) observer_.OnStaleMessage();
      if (entry.end != SequenceEnd::kRunning) {
        replica.plan.acknowledgements.push_back({entry.id, entry.epoch, entry.length});
      }
      continue;
    }
    Sequence& sequence = *it->second;
    const Request& request = *sequence.request;
    const KnownSequence known{sequence.ids, sequence.prompt_length, sequence.max_tokens,
                              request.stop_token_ids, request.params.num_logprobs};
    const char* check =
        entry.epoch != sequence.epoch ? "epoch" : CheckSequenceReport(entry, known, options_.vocab_size);
    if (check != nullptr) {
      Violation(replica_index, &sequence, check);
      return;
    }
    Record(sequence, std::move(entry), replica);
  }
}

void Batcher::OnDraining(int replica_index) {
  Replica& replica = replicas_[replica_index];
  if (replica.state() != Replica::State::kReady) return;
  replica.BeginDraining();
  TellState(replica, absl::OkStatus());
}

void Batcher::OnClosed(int replica_index, absl::Status why) {
  Replica& replica = replicas_[replica_index];
  if (absl::IsFailedPrecondition(why) && replica.state() == Replica::State::kConnecting) {
    replica.mismatched = true;  // the verifier found it first
    observer_.OnHandshakeFailure(replica_index, "refused");
  }
  RequeueAll(replica);
  ++replica.failures;
  const absl::Duration wait = replica.mismatched ? options_.mismatch_reconnect : Backoff(replica.failures);
  replica.BecomeDown(clock_.Now(), wait);
  TellState(replica, why);
}

// --- The round
// ----------------------------------------------------------------------------------------------------

void Batcher::Advance() {
  const absl::Duration now = clock_.Now();
  next_wake_ = absl::InfiniteDuration();
  ExpireRequests(now);
  TendStreams(now);
  MoveOffDraining();
  AdmitFromQueue(now);
  SendPlans();
  TellLoad(now);
}

void Batcher::ExpireRequests(absl::Duration now) {
  while (!deadlines_.empty() && deadlines_.begin()->first.first <= now) {
    Request& request = *deadlines_.begin()->second;
    EndRequest(request, error::DeadlineExceeded(request.deadline - request.received));
  }
  if (!deadlines_.empty()) WakeAt(deadlines_.begin()->first.first);
}

void Batcher::TendStreams(absl::Duration now) {
  const bool any_open =
      std::any_of(replicas_.begin(), replicas_.end(), [](const Replica& r) { return r.open(); });
  if (identity_ && !any_open && num_with_output_ == 0) {
    // Nothing depends on the old identity any more: whatever comes next will do.
    identity_.reset();
    for (Replica& replica : replicas_) {
      if (replica.state() == Replica::State::kDown && replica.mismatched) replica.RetryNow(now);
    }
  }
  for (Replica& replica : replicas_) {
    absl::Duration timeout = absl::InfiniteDuration();
    switch (replica.state()) {
      case Replica::State::kDown:
        if (replica.retry_at() > now) {
          WakeAt(replica.retry_at());
          break;
        }
        replica.Connect({options_.incarnation, identity_.value_or(ModelIdentity()), options_.tokenizer_hash,
                         options_.vocab_size},
                        *listeners_[IndexOf(replica)], now);
        TellState(replica, absl::OkStatus());
        timeout = options_.hello_timeout;
        break;
      case Replica::State::kConnecting:
        timeout = options_.hello_timeout;
        break;
      case Replica::State::kReady:
      case Replica::State::kDraining:
        if (!replica.running.empty()) timeout = options_.report_timeout;
        break;
      case Replica::State::kClosing:
        break;
    }
    if (timeout == absl::InfiniteDuration()) continue;
    if (now >= replica.last_sign() + timeout) {
      const absl::Status why = Unavailable("verifier was silent for {} s", absl::ToDoubleSeconds(timeout));
      RequeueAll(replica);
      replica.Close(why);
      TellState(replica, why);
    } else {
      WakeAt(replica.last_sign() + timeout);
    }
  }
}

void Batcher::SendPlans() {
  for (Replica& replica : replicas_) {
    replica.SendPlan(static_cast<int32_t>(queue_.size()), queue_.num_tokens(), options_.prefill_token_budget);
  }
}

void Batcher::TellLoad(absl::Duration now) {
  Load load;
  load.waiting = static_cast<int>(queue_.size());
  load.waiting_tokens = queue_.num_tokens();
  int64_t slots = 0;
  for (const Replica& replica : replicas_) {
    load.running += static_cast<int>(replica.running.size());
    ++load.verifiers[static_cast<int>(replica.public_state())];
    if (!replica.open()) continue;
    slots += replica.hello().max_sequences;
    load.kv_total_blocks += replica.hello().kv_total_blocks;
    load.kv_free_blocks += replica.free_blocks();
    load.kv_cached_blocks += replica.cached_blocks();
    load.kv_block_positions = static_cast<int>(replica.hello().kv_block_positions);
  }
  constexpr int64_t kMaxQueue = 1'000'000;
  door_.set_limit(static_cast<int>(
      std::clamp<int64_t>(slots * limits::kQueuePerSequenceSlot, limits::kMinQueue, kMaxQueue)));
  // Without a verifier nobody waits for a place, but for a verifier.
  pace_.SetWaiting(!queue_.empty() && any_ready(), now);
  door_.set_wait_per_choice(pace_.per_choice());
  if (load == load_) return;
  load_ = load;
  observer_.OnLoad(load);
}

bool Batcher::any_ready() const {
  return std::any_of(replicas_.begin(), replicas_.end(), [](const Replica& r) { return r.ready(); });
}

int32_t Batcher::max_model_len() const {
  uint32_t longest = 0;
  for (const Replica& replica : replicas_) {
    if (replica.ready()) longest = std::max(longest, replica.hello().max_model_len);
  }
  return static_cast<int32_t>(longest);
}

// --- Recovery
// -----------------------------------------------------------------------------------------------------

void Batcher::Violation(int replica_index, Sequence* culprit, const char* check) {
  Replica& replica = replicas_[replica_index];
  observer_.OnProtocolError(replica_index, check);
  // Once may be the verifier's fault; where the same sequence is involved again, somebody must hear of it.
  std::vector<uint64_t> hopeless;
  for (const auto& [id, sequence] : replica.running) {
    if (culprit != nullptr && culprit != sequence) continue;
    if (++sequence->violations > 1) hopeless.push_back(sequence->request->key);
  }
  RequeueAll(replica);
  for (const uint64_t key : hopeless) {
    const auto it = requests_.find(key);
    if (it != requests_.end()) EndRequest(*it->second, error::PeerProtocol(it->second->request_id));
  }
  const absl::Status why = InvalidArgument("report fails check {}", check);
  replica.Close(why);
  TellState(replica, why);
}

void Batcher::RequeueAll(Replica& replica) {
  for (const auto& [id, sequence] : std::exchange(replica.running, {})) {
    sequence->failed_over = true;
    Requeue(*sequence);
  }
}

absl::Duration Batcher::Backoff(int failures) {
  absl::Duration wait = options_.min_reconnect;
  for (int i = 1; i < failures && wait < options_.max_reconnect; ++i) wait *= 2;
  const double factor = std::uniform_real_distribution<double>(0.75, 1.25)(jitter_);
  return std::clamp(absl::Ceil(wait * factor, absl::Milliseconds(1)), options_.min_reconnect,
                    options_.max_reconnect);
}

void Batcher::TellState(const Replica& replica, const absl::Status& why) {
  const int index = IndexOf(replica);
  observer_.OnVerifierState(index, replicas_[index].link().name(), replica.public_state(), why);
}

}  // namespace tandem::gateway
