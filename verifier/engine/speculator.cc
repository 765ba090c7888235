#include "verifier/engine/speculator.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/base/status.h"

namespace tandem::verifier {
namespace {

Sequence* Find(std::span<const std::unique_ptr<Sequence>> running, uint64_t admission_number) {
  const auto found = std::ranges::lower_bound(running, admission_number, {},
                                              [](const auto& s) { return s->admission_number(); });
  if (found == running.end() || (*found)->admission_number() != admission_number) return nullptr;
  return (*found)->state() == SequenceState::kEnded ? nullptr : found->get();
}

double Sigmoid(double z) { return 1.0 / (1.0 + std::exp(-z)); }

std::string CalibrationKey(const speculation::DrafterHello& hello) {
  return fmt::format("{}/{}/{}/{}", hello.algorithm, hello.name, hello.projection_hash, hello.block_size);
}

}  // namespace

Speculator::Speculator(const SpeculationOptions& options, const models::Model& model, int32_t max_drafts,
                       HiddenRows& hidden_rows, ThreadPool& pool, const Clock& clock)
    : options_(options),
      model_(model),
      max_drafts_(max_drafts),
      hidden_rows_(hidden_rows),
      rows_(hidden_rows.store()),
      pool_(pool),
      clock_(clock) {
  TANDEM_CHECK(options.num_drafters > 0 && max_drafts > 0);
  for (int i = 0; i < options.num_drafters; ++i) {
    drafters_.push_back(std::make_unique<Drafter>(static_cast<uint64_t>(i + 1) * 0x9e3779b97f4a7c15u));
  }
  feeds_.resize(drafters_.size());
  stats_.checked_at.resize(max_drafts);
  stats_.accepted_at.resize(max_drafts);
}

// --- streams

absl::Status Speculator::UseProjection(const DrafterStream& stream) {
  const speculation::DrafterHello& hello = stream.hello;
  if (hello.row_width != rows_.width()) {
    return FailedPrecondition("row_width must be {}, got {}", rows_.width(), hello.row_width);
  }
  if (options_.only_shared_memory && stream.transport != speculation::RowTransport::kSharedMemory) {
    return FailedPrecondition("row transport must be shm, got {}",
                              speculation::RowTransportName(stream.transport));
  }
  if (hello.projection_hash == rows_.projection()) return absl::OkStatus();
  const bool others = std::ranges::any_of(
      drafters_, [](const auto& d) { return d->connected() && d->stream.hello.row_width > 0; });
  if (others) {
    return FailedPrecondition("projection_hash must be {} as of the other drafters, got {}",
                              rows_.projection(), hello.projection_hash);
  }
  const std::vector<int32_t>& taps = stream.projection->taps;
  if (static_cast<int>(taps.size()) > model_.options().max_taps || taps.front() < -1 ||
      taps.back() >= model_.config().num_layers) {
    return FailedPrecondition("taps must be at most {} layers in -1..{}, got {} in {}..{}",
                              model_.options().max_taps, model_.config().num_layers - 1, taps.size(),
                              taps.front(), taps.back());
  }
  // As exact as the model itself.
  const auto precision = model_.options().activation_type == kernels::ActivationType::kInt8
                             ? models::RowProjection::Precision::kInt8
                             : models::RowProjection::Precision::kExact;
  ASSIGN_OR_RETURN(auto projection, models::RowProjection::Create(
                                        *stream.projection, static_cast<int32_t>(model_.config().hidden_size),
                                        HiddenRows::kMaxWaiting, pool_, precision));
  hidden_rows_.Use(std::move(projection), taps, hello.projection_hash);
  return absl::OkStatus();
}

absl::Status Speculator::Open(int index, DrafterStream stream) {
  Drafter& drafter = *drafters_[index];
  TANDEM_CHECK(!drafter.connected() && stream.link != nullptr);
  if (stream.projection != nullptr) {
    RETURN_IF_ERROR(UseProjection(stream));
  }
  drafter.stream = std::move(stream);
  drafter.session = ++last_session_;
  drafter.rows_granted = drafter.stream.hello.rows_granted;
  drafter.rows_sent = 0;
  drafter.known.clear();
  drafter.forgotten.clear();
  drafter.breaker.OnReconnect();
  if (const std::string key = CalibrationKey(drafter.stream.hello); key != drafter.calibrated_for) {
    drafter.calibrated_for = key;
    drafter.calibration = std::make_unique<Calibration>(drafter.stream.hello.block_size);
    drafter.calibration->Start(options_.acceptance, drafter.stream.hello.calibration);
    drafter.time = DraftTimeModel();
  }
  return absl::OkStatus();
}

void Speculator::Close(int index, std::span<const std::unique_ptr<Sequence>> running) {
  Drafter& drafter = *drafters_[index];
  if (!drafter.connected()) return;
  drafter.stream = {};
  for (const auto& sequence : running) {
    if (sequence->progress.drafter != index) continue;
    if (sequence->progress.waiting) Count(DraftFallback::kDrafterDown);
    Leave(*sequence);
  }
}

void Speculator::OnProtocolError(int index) {
  Count(DraftFallback::kPeerProtocol);
  drafters_[index]->breaker.OnProtocolError(clock_.Now());
}

int Speculator::Bucket(const Sequence& sequence) {
  return TemperatureBucket(sequence.request().sampling.temperature);
}

void Speculator::Leave(Sequence& sequence) {
  const uint32_t round = sequence.progress.round;  // of the epoch: never used twice
  sequence.progress = {};
  sequence.progress.round = round;
}

bool Speculator::IsKnown(const Sequence& sequence) const {
  const DraftProgress& progress = sequence.progress;
  return progress.drafter >= 0 && drafters_[progress.drafter]->connected() &&
         drafters_[progress.drafter]->session == progress.session;
}

void Speculator::Forget(Sequence& sequence) {
  if (IsKnown(sequence)) {
    Drafter& drafter = *drafters_[sequence.progress.drafter];
    if (sequence.progress.waiting) drafter.breaker.OnWithdrawn();
    if (drafter.known.erase(sequence.admission_number()) > 0) {
      drafter.forgotten.push_back({sequence.admission_number(), sequence.epoch()});
    }
  }
  Leave(sequence);
}

void Speculator::Flush() {
  for (const auto& drafter : drafters_) {
    if (!drafter->connected() || drafter->forgotten.empty()) continue;
    speculation::Feed feed;
    feed.forgotten = std::exchange(drafter->forgotten, {});
    drafter->stream.link->SendFeed(std::move(feed));
  }
}

// --- answers

void Speculator::Take(int index, speculation::DraftBatch&& batch, absl::Duration arrived,
                      std::span<const std::unique_ptr<Sequence>> running) {
  Drafter& drafter = *drafters_[index];
  if (!drafter.connected()) return;  // of a stream that ended meanwhile
  drafter.rows_granted = std::max(drafter.rows_granted, batch.rows_granted);
  absl::Duration asked_at = absl::InfiniteDuration();
  for (speculation::SequenceDraft& draft : batch.drafts) {
    const Sequence* sequence = Find(running, draft.id);
    if (sequence != nullptr && sequence->progress.round == draft.round) {
      asked_at = std::min(asked_at, sequence->progress.asked_at);
    }
    TakeOne(drafter, index, std::move(draft), arrived, running);
  }
  if (asked_at < absl::InfiniteDuration()) {
    if (asked_at <= drafter.overlap.step_begin()) drafter.overlap.OnArrival(arrived);
    drafter.time.ObserveRound(static_cast<int>(batch.drafts.size()),
                              absl::ToDoubleSeconds(arrived - asked_at));
  }
  for (const speculation::OutOfSync& entry : batch.out_of_sync) TakeOutOfSync(drafter, index, entry, running);
}

void Speculator::TakeOne(Drafter& drafter, int index, speculation::SequenceDraft&& draft,
                         absl::Duration arrived, std::span<const std::unique_ptr<Sequence>> running) {
  Sequence* const sequence = Find(running, draft.id);
  if (sequence == nullptr) return;  // ended meanwhile: nothing is wrong
  DraftProgress& progress = sequence->progress;
  const bool fits = progress.waiting && progress.drafter == index && progress.session == drafter.session &&
                    draft.epoch == sequence->epoch() && draft.round == progress.round &&
                    draft.length == sequence->confirmed_len() && draft.anchor == sequence->anchor();
  if (!fits) {
    Count(DraftFallback::kStale);
    return;
  }
  const bool needs_laws = options_.acceptance == speculation::AcceptanceMode::kRejection;
  TANDEM_CHECK(!needs_laws || draft.distributions.size() == draft.tokens.size());  // the link has checked it
  progress.waiting = false;
  progress.out_of_sync = 0;
  drafter.breaker.OnAnswer();
  waits_.push_back(absl::ToDoubleSeconds(arrived - progress.asked_at));
  stats_.proposed += static_cast<int64_t>(draft.tokens.size());
  PendingDrafts& pending = sequence->drafts;
  pending.length = draft.length;
  pending.anchor = draft.anchor;
  pending.tokens = std::move(draft.tokens);
  pending.confidence_logits = std::move(draft.confidence_logits);
  pending.distributions = std::move(draft.distributions);
  pending.window = 0;
}

void Speculator::TakeOutOfSync(Drafter& drafter, int index, const speculation::OutOfSync& entry,
                               std::span<const std::unique_ptr<Sequence>> running) {
  ++stats_.out_of_sync;
  Sequence* const sequence = Find(running, entry.id);
  if (sequence == nullptr || entry.epoch != sequence->epoch()) return;
  DraftProgress& progress = sequence->progress;
  if (progress.drafter != index || progress.session != drafter.session) return;
  if (progress.waiting) {
    progress.waiting = false;
    drafter.breaker.OnAnswer();  // it is there, it only lacks rows
  }
  progress.fed = std::clamp(entry.have, 0, progress.fed);
  if (++progress.out_of_sync < kMaxOutOfSync) return;
  progress.dropped = true;
  if (drafter.known.erase(sequence->admission_number()) > 0) {
    drafter.forgotten.push_back({sequence->admission_number(), sequence->epoch()});
  }
}

void Speculator::Expire(std::span<const std::unique_ptr<Sequence>> running) {
  const absl::Duration now = clock_.Now();
  for (size_t index = 0; index < drafters_.size(); ++index) {
    Drafter& drafter = *drafters_[index];
    absl::Duration counted = -absl::InfiniteDuration();  // requests that went out together time out together
    for (const auto& sequence : running) {
      DraftProgress& progress = sequence->progress;
      if (!progress.waiting || progress.drafter != static_cast<int>(index)) continue;
      const bool gone = drafter.breaker.state(now) == DraftBreaker::State::kOpen;
      if (!gone && now < progress.give_up_at) continue;
      progress.waiting = false;
      Count(gone ? DraftFallback::kBreaker : DraftFallback::kTimeout);
      if (gone || progress.asked_at == counted) continue;
      counted = progress.asked_at;
      drafter.breaker.OnTimeout(now, now - progress.asked_at);
      drafter.time.ObserveTimeout(absl::ToDoubleSeconds(now - progress.asked_at));
    }
  }
}

bool Speculator::HoldsAll(std::span<const std::unique_ptr<Sequence>> running) const {
  if (clock_.Now() >= gather_until_) return false;
  return std::ranges::any_of(running, [&](const auto& sequence) {
    return sequence->progress.waiting && drafters_[sequence->progress.drafter]->stream.shares_cores;
  });
}

absl::Duration Speculator::NextChange(std::span<const std::unique_ptr<Sequence>> running) const {
  absl::Duration next = absl::InfiniteDuration();
  bool others = false;  // held for those that wait
  for (const auto& sequence : running) {
    if (sequence->progress.waiting) {
      next = std::min(next, sequence->progress.give_up_at);
    } else {
      others = true;
    }
  }
  return others ? std::min(next, gather_until_) : next;
}

// --- windows

void Speculator::PlanWindows(StepLoad& load, std::span<Sequence* const> sequences) {
  if (sequences.empty()) return;
  drafted_.clear();
  survivals_.resize(std::max(survivals_.size(), sequences.size()));
  confidences_.resize(survivals_.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& sequence = *sequences[i];
    const PendingDrafts& drafts = sequence.drafts;
    const int n =
        std::max(0, std::min({static_cast<int>(drafts.tokens.size()), max_drafts_, sequence.most_drafts()}));
    Calibration& calibration = *drafters_[sequence.progress.drafter]->calibration;
    calibration.Survivals(Bucket(sequence), drafts.confidence_logits, n, survivals_[i]);
    if (!drafts.confidence_logits.empty() && !calibration.Trusted(Bucket(sequence))) {
      Count(DraftFallback::kUncalibrated);
    }
    confidences_[i].clear();
    for (size_t j = 0; j < drafts.confidence_logits.size(); ++j) {
      confidences_[i].push_back(Sigmoid(drafts.confidence_logits[j]));
    }
    drafted_.push_back({sequence.admission_number(), survivals_[i],
                        std::span(confidences_[i]).first(confidences_[i].empty() ? 0 : survivals_[i].size()),
                        sequence.progress.probe, WantedPaceOf(sequence)});
  }
  load.draft_seconds = DraftCost(static_cast<int>(sequences.size()), 0);
  load.no_look_ahead = options_.acceptance == speculation::AcceptanceMode::kRejection;
  ChooseWindows(options_.policy, load, drafted_, windows_);
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    sequence.drafts.window = windows_[i];
    sequence.drafts.survivals.assign(survivals_[i].begin(), survivals_[i].end());
  }
}

// Whether it has not yet answered what it was asked before a time.
bool Speculator::IsDrafting(int index, absl::Duration before,
                            std::span<const std::unique_ptr<Sequence>> running) const {
  return std::ranges::any_of(running, [&](const auto& sequence) {
    const DraftProgress& progress = sequence->progress;
    return progress.waiting && progress.drafter == index && progress.asked_at <= before;
  });
}

bool Speculator::ObserveStep(absl::Duration begin, absl::Duration end, double predicted_seconds,
                             std::span<const std::unique_ptr<Sequence>> running) {
  bool beside = false;
  for (size_t i = 0; i < drafters_.size(); ++i) {
    Drafter& drafter = *drafters_[i];
    if (!drafter.connected() || drafter.stream.shares_cores) continue;
    if (!IsDrafting(static_cast<int>(i), begin, running)) continue;
    drafter.overlap.OnStep(begin, end, predicted_seconds, absl::ToDoubleSeconds(end - begin));
    beside = true;
  }
  return beside;
}

std::optional<double> Speculator::SettleStep(std::span<const std::unique_ptr<Sequence>> running) {
  std::optional<double> taken;
  for (size_t i = 0; i < drafters_.size(); ++i) {
    Drafter& drafter = *drafters_[i];
    const bool still_waiting = IsDrafting(static_cast<int>(i), drafter.overlap.step_begin(), running);
    const std::optional<double> seconds = drafter.overlap.Settle(still_waiting, drafter.time);
    if (!seconds) continue;
    // Drafters that draft at the same time disturb by no more than the one that does so most.
    taken = std::max(taken.value_or(0), *seconds);
  }
  return taken;
}

void Speculator::Observe(Sequence& sequence, int checked, int accepted) {
  if (sequence.progress.drafter < 0 || sequence.drafts.survivals.empty()) return;
  Drafter& drafter = *drafters_[sequence.progress.drafter];
  // A round of which nothing was checked still says what the head expects: without it only the good rounds
  // would count, and drafts would be asked for in vain.
  drafter.calibration->Observe(Bucket(sequence), sequence.drafts.confidence_logits, checked, accepted);
  if (sequence.progress.probe) probe_.Observe(checked, accepted);
  if (checked == 0) return;
  ++stats_.rounds;
  for (int i = 0; i < checked; ++i) {
    ++stats_.checked_at[i];
    stats_.accepted_at[i] += i < accepted;
    if (i >= static_cast<int>(sequence.drafts.survivals.size())) continue;
    const double survival = sequence.drafts.survivals[i];
    stats_.expected_accepted += survival;
    const size_t bucket = std::min(static_cast<size_t>(survival * kSurvivalBuckets), kSurvivalBuckets - 1);
    stats_.expected_in[bucket] += survival;
    ++stats_.checked_in[bucket];
    stats_.accepted_in[bucket] += i < accepted;
  }
}

}  // namespace tandem::verifier
