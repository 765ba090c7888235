// Behind a step: for whom to ask drafts, of which drafter, and what to feed it.
#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "verifier/engine/speculator.h"
#include "verifier/scheduling/latency_target.h"

namespace tandem::verifier {
namespace {

constexpr int32_t kBlock = kernels::kKvBlockPositions;
// A step waits at most so many expected round trips for the drafts of others.
constexpr double kGatherRounds = 2.0;
constexpr absl::Duration kShortestGather = absl::Milliseconds(5);
// Feeding takes time of its own before a draft can begin.
constexpr absl::Duration kTimeoutPerRow = absl::Microseconds(200);

}  // namespace

Drafter* Speculator::Assign(Sequence& sequence) {
  const absl::Duration now = clock_.Now();
  const auto is_open = [now](const Drafter& d) { return d.breaker.state(now) == DraftBreaker::State::kOpen; };
  Drafter* const present = IsKnown(sequence) ? drafters_[sequence.progress.drafter].get() : nullptr;
  const bool has_context = present != nullptr && present->known.contains(sequence.admission_number());
  if (present != nullptr && !is_open(*present) && (has_context || present->has_place())) return present;

  int best = -1;
  DraftFallback reason = DraftFallback::kDrafterDown;
  for (size_t i = 0; i < drafters_.size(); ++i) {
    const Drafter& drafter = *drafters_[i];
    if (!drafter.connected()) continue;
    if (is_open(drafter)) {
      if (reason == DraftFallback::kDrafterDown) reason = DraftFallback::kBreaker;
      continue;
    }
    reason = DraftFallback::kCredit;
    if (!drafter.has_place()) continue;
    if (best < 0 || drafter.known.size() < drafters_[best]->known.size()) best = static_cast<int>(i);
  }
  if (best < 0) {
    if (!has_context) Leave(sequence);  // else it goes on where it is, once the breaker closes
    Count(reason);
    return nullptr;
  }
  Forget(sequence);  // one that hangs keeps no sequences that another can draft for
  sequence.progress.drafter = best;
  sequence.progress.session = drafters_[best]->session;
  return drafters_[best].get();
}

bool Speculator::HasRows(const Sequence& sequence, int32_t begin) const {
  for (int32_t block = begin / kBlock; block * kBlock < sequence.kv_len(); ++block) {
    const int32_t slots = std::min(kBlock, sequence.kv_len() - block * kBlock);
    if (!rows_.Has(sequence.blocks[block], slots)) return false;
  }
  return true;
}

bool Speculator::MayBeDrafted(Sequence& sequence) {
  if (sequence.state() != SequenceState::kDecoding || sequence.progress.waiting ||
      !sequence.drafts.tokens.empty() || sequence.most_drafts() < 1) {
    return false;
  }
  const Drafter* const drafter = Assign(sequence);
  if (drafter == nullptr) return false;
  const speculation::DrafterHello& hello = drafter->stream.hello;
  if (sequence.progress.dropped ||
      (hello.max_context_rows > 0 && sequence.kv_len() + hello.block_size > hello.max_context_rows)) {
    Count(DraftFallback::kCredit);
    return false;
  }
  if (hello.row_width > 0 && !HasRows(sequence, sequence.progress.fed)) {
    Count(DraftFallback::kNoRows);
    return false;
  }
  return true;
}

double Speculator::WantedPaceOf(const Sequence& sequence) const {
  const double target = sequence.request().tpot_target_ms / 1e3;
  if (!(target > 0)) return 0;
  const PaceStart& start = sequence.pace_start;
  if (start.length == 0) return target;
  return WantedPace(target, absl::ToDoubleSeconds(clock_.Now() - start.time),
                    sequence.confirmed_len() - start.length);
}

// s D(n), and what cannot be hidden behind the steps of others when the drafter has cores of its own.
double Speculator::DraftCost(int num_sequences, double hidden_seconds) const {
  double cost = 0;
  for (const auto& drafter : drafters_) {
    if (!drafter->connected()) continue;
    const double round = drafter->time.RoundSeconds(num_sequences);
    const double s = drafter->stream.shares_cores ? 1.0 : drafter->time.Interference();
    cost = std::max(cost, s * round + (1 - s) * std::max(0.0, round - hidden_seconds));
  }
  return cost;
}

void Speculator::Choose(const StepLoad& load) {
  wishes_.clear();
  costs_.clear();
  const double step_seconds =
      load.step_time->Predict({load.num_anchors, load.num_kv_positions, load.num_prefill_tokens});
  for (size_t n = 0; n <= candidates_.size(); ++n) {
    const bool others = n < static_cast<size_t>(load.num_anchors);
    costs_.push_back(n == 0 ? 0 : DraftCost(static_cast<int>(n), others ? step_seconds : 0));
  }
  for (const Sequence* sequence : candidates_) {
    const Drafter& drafter = *drafters_[sequence->progress.drafter];
    wishes_.push_back({sequence->admission_number(),
                       drafter.calibration->ExpectedSurvivals(Bucket(*sequence)), sequence->progress.drafting,
                       WantedPaceOf(*sequence)});
  }
  if (pause_.Holds(options_.policy, load, wishes_)) {
    chosen_.assign(wishes_.size(), false);
  } else {
    ChooseDrafting(options_.policy, load, costs_, wishes_, chosen_);
    pause_.Observe(load, chosen_);
  }
  for (size_t i = 0; i < candidates_.size(); ++i) {
    candidates_[i]->progress.drafting = chosen_[i];
    candidates_[i]->progress.probe = false;
  }
  if (const std::optional<size_t> probe = probe_.Step(options_.policy, load, costs_, wishes_, chosen_)) {
    candidates_[*probe]->progress.probe = true;
  }
}

absl::Duration Speculator::Timeout(const Drafter& drafter, absl::Duration last_step) const {
  const absl::Duration by_rounds = 4 * absl::Seconds(drafter.time.P99RoundSeconds());
  return std::min(std::max({kShortestTimeout, by_rounds, 2 * last_step}), kLongestTimeout);
}

void Speculator::AskForDrafts(const StepLoad& load, absl::Duration last_step,
                              std::span<const std::unique_ptr<Sequence>> running) {
  if (options_.policy.kind == PolicyKind::kOff) return;
  candidates_.clear();
  for (const auto& sequence : running) {
    if (sequence->pace_start.length == 0 && sequence->state() == SequenceState::kDecoding &&
        sequence->output_len() > 0) {
      sequence->pace_start = {sequence->confirmed_len(), clock_.Now()};
    }
    if (MayBeDrafted(*sequence)) candidates_.push_back(sequence.get());
  }
  if (!candidates_.empty()) {
    Choose(load);
    const absl::Duration now = clock_.Now();
    int asked = 0;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      Sequence& sequence = *candidates_[i];
      if (!chosen_[i]) {
        Count(DraftFallback::kCost);
        continue;
      }
      const Drafter& drafter = *drafters_[sequence.progress.drafter];
      Feed(sequence, feeds_[sequence.progress.drafter], Timeout(drafter, last_step), now);
      asked += sequence.progress.waiting;
    }
    if (asked > 0) {
      const double round = DraftCost(asked, 0);
      gather_until_ = round > 0 ? now + std::max(kShortestGather, kGatherRounds * absl::Seconds(round))
                                : now + kShortestTimeout;
    }
  }
  for (size_t i = 0; i < drafters_.size(); ++i) {
    if (feeds_[i].sequences.empty()) continue;
    feeds_[i].forgotten = std::exchange(drafters_[i]->forgotten, {});
    drafters_[i]->stream.link->SendFeed(std::exchange(feeds_[i], {}));
  }
}

void Speculator::Feed(Sequence& sequence, speculation::Feed& feed, absl::Duration timeout,
                      absl::Duration now) {
  DraftProgress& progress = sequence.progress;
  Drafter& drafter = *drafters_[progress.drafter];
  if (!drafter.known.contains(sequence.admission_number()) && !drafter.has_place()) {
    Count(DraftFallback::kCredit);
    return;
  }
  const bool needs_rows = drafter.stream.hello.row_width > 0;
  const int32_t missing = sequence.kv_len() - progress.fed;
  const int32_t num_rows =
      needs_rows ? static_cast<int32_t>(std::min<int64_t>(missing, drafter.free_rows())) : missing;
  const bool complete = num_rows == missing;
  if (complete && !drafter.breaker.Admit(now)) {
    Count(DraftFallback::kBreaker);
    return;
  }
  if (!complete) {
    Count(DraftFallback::kCredit);
    if (num_rows == 0) return;
  }

  speculation::SequenceFeed entry;
  entry.id = sequence.admission_number();
  entry.epoch = sequence.epoch();
  entry.from = progress.fed;
  entry.num_rows = num_rows;
  entry.first_row_number = drafter.rows_sent;
  const auto tokens = sequence.tokens().subspan(progress.fed, num_rows + 1);
  entry.tokens.assign(tokens.begin(), tokens.end());
  if (progress.fed == 0) {
    const sampling::SamplingParams& s = sequence.request().sampling;
    entry.sampling = speculation::DraftSampling{s.seed, s.temperature, s.top_k, s.top_p, s.min_p};
  }
  if (needs_rows) {
    hidden_rows_.Project();
    for (int32_t p = progress.fed; p < progress.fed + num_rows; ++p) {
      drafter.stream.link->PutRow(drafter.rows_sent++, rows_.Row(sequence.blocks[p / kBlock], p % kBlock));
    }
    const bool shm = drafter.stream.transport == speculation::RowTransport::kSharedMemory;
    (shm ? stats_.shm_row_bytes : stats_.inline_row_bytes) += num_rows * rows_.row_bytes();
  }
  progress.fed += num_rows;
  drafter.known.insert(sequence.admission_number());
  if (complete) {
    entry.draft = true;
    entry.round = ++progress.round;
    progress.waiting = true;
    progress.asked_length = sequence.confirmed_len();
    progress.asked_at = now;
    progress.give_up_at = now + timeout + num_rows * kTimeoutPerRow;
  }
  feed.sequences.push_back(std::move(entry));
}

}  // namespace tandem::verifier
