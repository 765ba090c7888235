// The verifier's side of speculation: for whom to ask drafts, what to feed, what to make of the answers.
//
// In the order of a round:
//   AskForDrafts   behind a step: who is to be drafted (policy), rows and tokens to their drafters
//   Take           drafts have come: those that fit a sequence's present state wait for its next step
//   Expire         give up on those that are late; a sequence never waits longer than its timeout
//   PlanWindows    before a step: how many of the drafts at hand to check
//   Observe        behind it: what of them stood; calibration and history learn
//
// A sequence that waits is held out of steps. Where drafter and verifier share cores the whole step waits
// (nothing is gained by computing beside it, and one step for all reads the weights once); otherwise the
// others go on, so that drafting and verifying overlap.
//
// In two parts: speculator.cc has streams, answers and windows, draft_requests.cc for whom to ask and what to
// feed. Nothing here can change the text with coupled acceptance. Not thread-safe: only the step loop calls
// it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/thread_pool.h"
#include "common/models/model.h"
#include "verifier/engine/drafter_session.h"
#include "verifier/engine/hidden_rows.h"
#include "verifier/engine/sequence.h"
#include "verifier/scheduling/draft_probe.h"
#include "verifier/scheduling/drafting_pause.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

struct SpeculationOptions {
  int num_drafters = 0;  // 0 = no speculation
  WindowPolicy policy;
  speculation::AcceptanceMode acceptance = speculation::AcceptanceMode::kCoupled;
  int32_t top_m = 64;  // rejection: pairs per position that drafters send
  speculation::RowType row_type = speculation::RowType::kBF16;
  bool only_shared_memory = false;  // refuse drafters whose hidden rows would travel inline
  // Benchmarks only: draft k is accepted with probability [k - 1] whatever the target says. Empty = off.
  std::vector<double> synthetic_acceptance;
};

// Why a decoding sequence had no drafts in a round, or (kUncalibrated) drafts of a head that does worse than
// observed frequencies, which then stand in for it: label of spec_fallback_total.
enum class DraftFallback {
  kStale,
  kTimeout,
  kBreaker,
  kNoRows,
  kDrafterDown,
  kUncalibrated,
  kCost,
  kCredit,
  kPeerProtocol
};
inline constexpr std::array<const char*, 9> kDraftFallbackNames = {
    "stale",        "timeout", "breaker", "no_rows",      "drafter_down",
    "uncalibrated", "cost",    "credit",  "peer_protocol"};

inline constexpr size_t kSurvivalBuckets = 10;

// Monotonic totals.
struct SpeculationStats {
  std::array<int64_t, kDraftFallbackNames.size()> fallbacks = {};
  int64_t rounds = 0;                            // with a window above 0
  int64_t proposed = 0;                          // draft tokens received that fitted
  std::vector<int64_t> checked_at, accepted_at;  // by position in the window
  double expected_accepted = 0;                  // sum of the survivals of checked drafts
  // Of checked drafts by what was promised of them: bucket b holds survivals in [b / 10, (b + 1) / 10).
  std::array<double, kSurvivalBuckets> expected_in = {};
  std::array<int64_t, kSurvivalBuckets> checked_in = {}, accepted_in = {};
  int64_t out_of_sync = 0;
  int64_t inline_row_bytes = 0, shm_row_bytes = 0;  // put into links
};

class Speculator {
 public:
  // Borrows everything but the options.
  Speculator(const SpeculationOptions& options, const models::Model& model, int32_t max_drafts,
             HiddenRows& hidden_rows, ThreadPool& pool, const Clock& clock);

  // --- streams
  // kFailedPrecondition if its rows do not go with this model's or with other drafters'; the stream is then
  // not open.
  absl::Status Open(int drafter, DrafterStream stream);
  // The stream's sequences go to another drafter, with what waits in their blocks, or on without.
  void Close(int drafter, std::span<const std::unique_ptr<Sequence>> running);
  void OnProtocolError(int drafter);

  // --- a round
  // `arrived` = when they did, which may be a step ago.
  void Take(int drafter, speculation::DraftBatch&& batch, absl::Duration arrived,
            std::span<const std::unique_ptr<Sequence>> running);
  void Expire(std::span<const std::unique_ptr<Sequence>> running);
  // Whether the sequence takes no part in the next step, or nobody does.
  bool Holds(const Sequence& sequence) const { return sequence.progress.waiting; }
  bool HoldsAll(std::span<const std::unique_ptr<Sequence>> running) const;
  // When Expire or HoldsAll will say something else without anything having come; infinite if never.
  absl::Duration NextChange(std::span<const std::unique_ptr<Sequence>> running) const;
  // Sets drafts.window and drafts.survivals of the given sequences, whose drafts fit. load.draft_seconds is
  // filled in.
  void PlanWindows(StepLoad& load, std::span<Sequence* const> sequences);
  // A step computed from `begin` to `end`. True if a drafter with cores of its own drafted beside it: its
  // time is then not that of the step alone, and SettleStep says how much of it was drafting.
  bool ObserveStep(absl::Duration begin, absl::Duration end, double predicted_seconds,
                   std::span<const std::unique_ptr<Sequence>> running);
  // Before the next step: seconds that drafting took from the one observed last; nothing if that is not
  // known, or not yet. Learns what drafting beside steps costs.
  std::optional<double> SettleStep(std::span<const std::unique_ptr<Sequence>> running);
  // `checked` drafts of a window were looked at (fewer than planned behind an end, none where none were worth
  // it), `accepted` stood. No-op for a sequence that had no drafts.
  void Observe(Sequence& sequence, int checked, int accepted);
  // load describes the step after this one, without drafts.
  void AskForDrafts(const StepLoad& load, absl::Duration last_step,
                    std::span<const std::unique_ptr<Sequence>> running);
  // The sequence has ended, or is about to.
  void Forget(Sequence& sequence);
  // What remains to be said to drafters (forgotten sequences) goes out.
  void Flush();

  // Seconds from request to arrival of the drafts taken since the last call.
  std::vector<double> TakeWaits() { return std::exchange(waits_, {}); }

  const SpeculationStats& stats() const { return stats_; }
  std::span<const std::unique_ptr<Drafter>> drafters() const { return drafters_; }
  const SpeculationOptions& options() const { return options_; }

 private:
  static constexpr absl::Duration kShortestTimeout = absl::Milliseconds(200);
  static constexpr absl::Duration kLongestTimeout = absl::Seconds(5);
  static constexpr int kMaxOutOfSync = 3;

  // --- speculator.cc
  absl::Status UseProjection(const DrafterStream& stream);
  bool IsKnown(const Sequence& sequence) const;
  // Of its temperature, in calibrations.
  static int Bucket(const Sequence& sequence);
  void Leave(Sequence& sequence);
  void TakeOne(Drafter& drafter, int index, speculation::SequenceDraft&& draft, absl::Duration arrived,
               std::span<const std::unique_ptr<Sequence>> running);
  void TakeOutOfSync(Drafter& drafter, int index, const speculation::OutOfSync& entry,
                     std::span<const std::unique_ptr<Sequence>> running);
  bool IsDrafting(int drafter, absl::Duration before,
                  std::span<const std::unique_ptr<Sequence>> running) const;

  // --- draft_requests.cc
  Drafter* Assign(Sequence& sequence);
  bool MayBeDrafted(Sequence& sequence);
  // Seconds per token that its latency target asks of its next steps; 0 = it has none.
  double WantedPaceOf(const Sequence& sequence) const;
  bool HasRows(const Sequence& sequence, int32_t begin) const;
  void Choose(const StepLoad& load);
  void Feed(Sequence& sequence, speculation::Feed& feed, absl::Duration timeout, absl::Duration now);
  double DraftCost(int num_sequences, double step_seconds) const;
  absl::Duration Timeout(const Drafter& drafter, absl::Duration last_step) const;

  void Count(DraftFallback reason) { ++stats_.fallbacks[static_cast<size_t>(reason)]; }

  const SpeculationOptions options_;
  const models::Model& model_;
  const int32_t max_drafts_;
  HiddenRows& hidden_rows_;
  RowStore& rows_;  // its store
  ThreadPool& pool_;
  const Clock& clock_;
  std::vector<std::unique_ptr<Drafter>> drafters_;
  uint64_t last_session_ = 0;
  absl::Duration gather_until_ = absl::ZeroDuration();  // a step for all waits until then at most
  DraftingPause pause_;
  DraftProbe probe_;
  SpeculationStats stats_;
  std::vector<double> waits_;

  // Work areas, reused.
  std::vector<Sequence*> candidates_;
  std::vector<DraftCandidate> wishes_;
  std::vector<bool> chosen_;
  std::vector<double> costs_;
  std::vector<DraftedSequence> drafted_;
  std::vector<std::vector<double>> survivals_, confidences_;
  std::vector<int> windows_;
  std::vector<speculation::Feed> feeds_;
};

}  // namespace tandem::verifier
