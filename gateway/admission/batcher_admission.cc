// The batcher's queue: who is admitted next and where, and who has waited too long.
#include <algorithm>
#include <utility>

#include "gateway/admission/batcher.h"
#include "gateway/errors.h"

namespace tandem::gateway {
namespace {

// A verifier that sends a sequence back unserved is asked again after these: doubling from 10 ms to 1 s.
absl::Duration PreemptionPause(int fruitless_preemptions) {
  return std::min(absl::Milliseconds(10) * (1 << std::min(fruitless_preemptions - 1, 7)), absl::Seconds(1));
}

}  // namespace

void Batcher::AdmitFromQueue(absl::Duration now) {
  std::vector<std::pair<uint64_t, absl::Status>> failed;
  bool refused = false;
  for (auto it = queue_.begin(); it != queue_.end();) {
    Sequence& sequence = *it->second;
    const bool possible = std::any_of(replicas_.begin(), replicas_.end(),
                                      [&](const Replica& r) { return r.ready() && FitsModel(r, sequence); });
    if (!possible) {
      // It waits for a verifier, not for room: others may pass.
      if (auto status = StrandedTooLong(sequence, now))
        failed.emplace_back(sequence.request->key, *std::move(status));
      ++it;
      continue;
    }
    sequence.stranded_since.reset();
    Replica* replica = nullptr;
    if (!refused) {
      if (sequence.not_before > now) {
        WakeAt(sequence.not_before);
      } else {
        replica = ChooseReplica(sequence);
      }
      refused = replica == nullptr;
    }
    if (replica == nullptr) {
      ++it;
      continue;
    }
    it = queue_.Remove(it);
    Admit(sequence, IndexOf(*replica), now);
  }
  for (const auto& [key, status] : failed) {
    const auto it = requests_.find(key);
    if (it != requests_.end()) EndRequest(*it->second, status);
  }
}

bool Batcher::FitsModel(const Replica& replica, const Sequence& sequence) const {
  const int64_t longest = replica.hello().max_model_len;
  if (int64_t{sequence.prompt_length} + sequence.max_tokens <= longest) return true;
  // A limit that the client did not ask for is what the model allows, decided at the first admission.
  const bool may_shorten = sequence.epoch == 0 && !sequence.request->params.max_tokens;
  return may_shorten && sequence.prompt_length < longest &&
         sequence.request->params.min_tokens <= longest - sequence.prompt_length;
}

// Where it would leave the most room; beside its siblings if they have room, for their common prompt's sake.
Replica* Batcher::ChooseReplica(const Sequence& sequence) {
  Replica* best = nullptr;
  for (Replica& replica : replicas_) {
    if (!replica.ready() || !FitsModel(replica, sequence) || !replica.HasRoomFor(sequence.length())) continue;
    if (best == nullptr || replica.FreeBlocks() > best->FreeBlocks()) best = &replica;
  }
  if (best == nullptr || sequence.request->sequences.size() == 1) return best;
  for (const auto& sibling : sequence.request->sequences) {
    if (sibling->state != Sequence::State::kRunning || sibling->prompt_length != sequence.prompt_length)
      continue;
    Replica& home = replicas_[sibling->replica];
    if (home.ready() && FitsModel(home, sequence) && home.HasRoomFor(sequence.length())) return &home;
  }
  return best;
}

void Batcher::Admit(Sequence& sequence, int replica_index, absl::Duration now) {
  Replica& replica = replicas_[replica_index];
  Request& request = *sequence.request;
  const CheckedRequest& params = request.params;
  if (!request.stop_ids_fixed) {
    request.stop_ids_fixed = true;
    request.stop_token_ids = params.stop_token_ids;
    if (!params.ignore_eos) {
      for (const auto* eos : {&options_.eos_token_ids, &replica.hello().eos_token_ids}) {
        request.stop_token_ids.insert(request.stop_token_ids.end(), eos->begin(), eos->end());
      }
    }
    std::sort(request.stop_token_ids.begin(), request.stop_token_ids.end());
    request.stop_token_ids.erase(std::unique(request.stop_token_ids.begin(), request.stop_token_ids.end()),
                                 request.stop_token_ids.end());
  }
  if (!request.admitted) request.admitted = now;
  if (sequence.epoch == 0) {
    door_.Leave(1);
    const int64_t rest = int64_t{replica.hello().max_model_len} - sequence.prompt_length;
    sequence.max_tokens = static_cast<int32_t>(std::min<int64_t>(sequence.max_tokens, rest));
  }
  if (std::exchange(sequence.failed_over, false)) observer_.OnFailover("resumed");
  ++sequence.epoch;
  sequence.state = Sequence::State::kRunning;
  sequence.replica = replica_index;
  sequence.computed_length = 0;
  sequence.length_at_admission = sequence.length();
  if (replica.running.empty()) replica.ExpectSign(now);
  replica.running.emplace(sequence.id, &sequence);

  Admission admission;
  admission.id = sequence.id;
  admission.epoch = sequence.epoch;
  admission.token_ids = sequence.ids;
  admission.prompt_length = sequence.prompt_length;
  admission.sampling = params.sampling;
  admission.sampling.seed = sequence.seed;
  admission.min_tokens = params.min_tokens;
  admission.max_tokens = sequence.max_tokens;
  admission.stop_token_ids = request.stop_token_ids;
  admission.num_logprobs = params.num_logprobs;
  admission.priority = params.priority;
  admission.tpot_target_ms = params.tpot_target_ms;
  admission.deadline = request.wall_deadline;
  admission.request_id = request.request_id;
  admission.traceparent = params.traceparent;
  admission.tracestate = params.tracestate;
  replica.plan.admissions.push_back(std::move(admission));
}

std::optional<absl::Status> Batcher::StrandedTooLong(Sequence& sequence, absl::Duration now) {
  const Request& request = *sequence.request;
  const bool has_run = sequence.epoch > 0;
  if (!has_run && any_ready()) {
    // Verifiers are there, and none is made for something as long.
    if (request.params.max_tokens) {
      return error::PromptTooLong(sequence.prompt_length, sequence.max_tokens, max_model_len());
    }
    return error::PromptFillsContext(sequence.prompt_length, max_model_len());
  }
  if (!sequence.stranded_since) sequence.stranded_since = now;
  const absl::Duration wait =
      has_run || request.had_verifier ? options_.lost_verifier_wait : options_.no_verifier_wait;
  if (now < *sequence.stranded_since + wait) {
    WakeAt(*sequence.stranded_since + wait);
    return std::nullopt;
  }
  if (sequence.num_output() > 0) return error::BackendLost(sequence.num_output());
  return had_verifier_ ? error::NoBackend(options_.max_reconnect) : error::Starting(options_.max_reconnect);
}

// Back to the head of its class, to be admitted with the tokens it has.
void Batcher::Requeue(Sequence& sequence) {
  sequence.state = Sequence::State::kQueued;
  sequence.replica = -1;
  sequence.resumed = true;
  sequence.computed_length = 0;
  sequence.drafted_before += std::exchange(sequence.drafted, 0);
  sequence.checked_before += std::exchange(sequence.checked, 0);
  sequence.accepted_before += std::exchange(sequence.accepted, 0);
  AddCounts(std::exchange(sequence.rounds, {}), sequence.rounds_before);
  if (sequence.length() > sequence.length_at_admission) {
    sequence.fruitless_preemptions = 0;
  }
  queue_.Add(sequence);
}

void Batcher::RequeuePreempted(Sequence& sequence, absl::Duration now) {
  observer_.OnPreemption();
  const bool fruitless = sequence.length() == sequence.length_at_admission;
  Requeue(sequence);
  if (fruitless) sequence.not_before = now + PreemptionPause(++sequence.fruitless_preemptions);
}

void Batcher::MoveOffDraining() {
  for (Replica& replica : replicas_) {
    if (replica.state() != Replica::State::kDraining) continue;
    std::vector<Sequence*> moving;
    for (const auto& [id, sequence] : replica.running) {
      const bool possible =
          std::any_of(replicas_.begin(), replicas_.end(),
                      [&, s = sequence](const Replica& r) { return r.ready() && FitsModel(r, *s); });
      if (possible) moving.push_back(sequence);
    }
    for (Sequence* sequence : moving) {
      replica.Cancel(*sequence);
      sequence->failed_over = true;
      Requeue(*sequence);
    }
  }
}

}  // namespace tandem::gateway
