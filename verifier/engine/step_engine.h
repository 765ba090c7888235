// The engine itself; engine.h is its interface, Engine::Create its constructor.
//
// In three parts: step_engine.cc is the step (expire, plan, reserve, forward, sample, accept), step_report.cc
// what is said behind it, admission.cc what changes between steps (streams, plans, admissions, ends).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "verifier/engine/block_pool.h"
#include "verifier/engine/engine.h"
#include "verifier/engine/hidden_rows.h"
#include "verifier/engine/prefix_cache.h"
#include "verifier/engine/sequence.h"
#include "verifier/engine/speculator.h"
#include "verifier/engine/step_planner.h"
#include "verifier/engine/step_sampler.h"
#include "verifier/engine/stream_state.h"
#include "verifier/scheduling/step_time_model.h"
#include "verifier/scheduling/utilization.h"

namespace tandem::verifier {

class StepEngine final : public Engine {
 public:
  StepEngine(const EngineOptions& options, int32_t max_model_len, models::Model& model,
             std::unique_ptr<kernels::KvCache> kv, std::unique_ptr<HiddenRows> rows, StepTimeModel step_time,
             ThreadPool& pool, const Clock& clock);

  int32_t kv_total_blocks() const override { return blocks_.total(); }
  const EngineOptions& options() const override { return options_; }
  int32_t max_model_len() const override { return max_model_len_; }
  const StepTimeParameters& step_time() const override { return step_time_.parameters(); }
  void ObserveDecisions(DecisionObserver* observer) override;
  void OpenStream(StreamId stream) override;
  void CloseStream(StreamId stream) override;
  void ApplyPlan(StreamId stream, Plan&& plan) override;
  void ProposeDrafts(StreamId stream, uint64_t id, uint32_t epoch, int32_t length, int32_t anchor,
                     std::span<const int32_t> drafts) override;
  absl::Status OpenDrafter(int drafter, DrafterStream stream) override;
  void CloseDrafter(int drafter) override;
  void TakeDrafts(int drafter, speculation::DraftBatch&& batch, absl::Duration arrived) override;
  void OnDrafterProtocolError(int drafter) override;
  bool HasWork() const override;
  absl::Duration NextChange() const override;
  std::vector<std::pair<StreamId, Report>> Step() override;
  const StepStats& last_step() const override { return step_; }
  EngineStats stats() const override;

 private:
  static constexpr absl::Duration kHeartbeat = absl::Seconds(1);

  // What one running sequence has in this step.
  struct Part {
    Sequence* sequence = nullptr;
    int32_t rows = 0;    // known positions
    int32_t drafts = 0;  // behind the anchor
    bool reaches_anchor() const { return rows == sequence->missing(); }
  };

  // --- admission.cc
  void Admit(StreamState& stream, StreamId stream_id, Admission&& admission, bool* must_wait);
  bool TryPlace(Sequence& sequence);
  void Cancel(StreamState& stream, const Cancellation& cancellation);
  void Acknowledge(StreamState& stream, const Acknowledgement& acknowledgement);
  void Refuse(StreamState& stream, const Admission& admission, SequenceEnd end, absl::Status error);
  // The one exit of every sequence in KV memory: final report, blocks returned.
  void EndSequence(Sequence& sequence, SequenceEnd end, absl::Status error = absl::OkStatus());
  void FreeBlocks(Sequence& sequence);
  void RemoveEnded();
  int64_t SequenceShare(StreamId stream) const;

  // --- step_engine.cc
  void ExpireDeadlines();
  void ExtendFromPrefixCache(Sequence& sequence);
  void HoldBackTwins();
  void PlanStep();
  int32_t UsableDrafts(Sequence& sequence);
  void DropStaleDrafts(Sequence& sequence);
  void PlanWindows();
  void AskForDrafts();
  StepLoad LoadWithoutDrafts(bool with_held) const;
  void OpenRecord(absl::Duration begin);
  void SettleStep();
  void ReserveBlocks();
  bool ReserveRows(Sequence& sequence, int32_t end_position);
  void PreemptFor(const Sequence& sequence);
  void ReserveDrafts();
  void BuildBatch();
  void Compute();
  void Accept();
  void AcceptWindow(const SampleWindow& window);
  void ShareFullBlocks(Sequence& sequence);
  void ObserveStep();

  // --- step_report.cc
  std::vector<std::pair<StreamId, Report>> CollectReports();
  Report MakeReport(StreamId id, StreamState& stream);
  int64_t PrefillShare(StreamId stream) const;

  // Constant after construction.
  const EngineOptions options_;
  const int32_t max_model_len_;
  const int32_t vocab_size_;
  const StepLimits limits_;
  models::Model& model_;
  ThreadPool& pool_;
  const Clock& clock_;

  // Memory.
  std::unique_ptr<kernels::KvCache> kv_;
  BlockPool blocks_;
  PrefixCache cache_;
  std::unique_ptr<HiddenRows> hidden_rows_;  // null without drafters
  std::unique_ptr<Speculator> speculator_;   // null without drafters

  // Who runs. `running_` is in admission order; those that ended stay until RemoveEnded.
  std::map<StreamId, StreamState> streams_;
  std::vector<std::unique_ptr<Sequence>> running_;
  uint64_t last_admission_number_ = 0;
  bool shares_changed_ = false;

  // Predictions and totals.
  StepTimeModel step_time_;
  std::optional<std::pair<StepShape, double>> unsettled_;  // drafting went on beside it; real seconds
  Utilization utilization_;
  StepStats step_;
  EngineStats totals_;
  std::optional<DecisionRecord> record_;  // while somebody observes

  // Work areas of the step, sized once.
  StepPlanner planner_;
  StepSampler sampler_;
  std::vector<SequenceWish> wishes_;
  std::vector<int64_t> budgets_;
  StepLoad load_;                // of this step, as its windows were planned for
  std::vector<Part> parts_;      // the sequences of this step, in admission order
  std::vector<Part*> by_claim_;  // the same, those that yield last first
  std::vector<const Sequence*> leaders_;
  std::vector<int32_t> tokens_, positions_, logits_rows_;
  std::vector<kernels::SequenceRows> rows_;
  std::vector<SampleWindow> windows_;
  std::vector<Sequence*> drafted_;
  models::Outputs outputs_;
};

}  // namespace tandem::verifier
