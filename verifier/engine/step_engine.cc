#include "verifier/engine/step_engine.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/status.h"
#include "verifier/engine/kv_size.h"
#include "verifier/engine/step_time_measurement.h"

namespace tandem::verifier {
namespace {

constexpr int32_t kBlock = kernels::kKvBlockPositions;
constexpr absl::Duration kMeasurementLimit = absl::Seconds(1);

absl::Status ValidateOptions(const EngineOptions& options, const models::ModelOptions& model) {
  if (options.kv_bytes < 0) return InvalidArgument("kv-bytes must not be negative, got {}", options.kv_bytes);
  if (options.max_sequences < 1) {
    return InvalidArgument("max-sequences must be at least 1, got {}", options.max_sequences);
  }
  if (options.max_step_tokens < 2) {
    return InvalidArgument("max-step-tokens must be at least 2, got {}", options.max_step_tokens);
  }
  if (options.prefill_chunk < 1) {
    return InvalidArgument("prefill-chunk must be at least 1, got {}", options.prefill_chunk);
  }
  if (options.max_draft_tokens < 0) {
    return InvalidArgument("max-draft-tokens must not be negative, got {}", options.max_draft_tokens);
  }
  if (model.max_step_tokens < 2 || model.max_logits_rows < 2 || model.max_positions < kBlock) {
    return InvalidArgument(
        "model: {} step tokens, {} logits rows, {} positions; at least 2, 2, {} are needed",
        model.max_step_tokens, model.max_logits_rows, model.max_positions, kBlock);
  }
  return absl::OkStatus();
}

// Rejection: tags of a sequence's noise never repeat, neither from round to round nor after a re-admission.
uint32_t NoiseRound(const Sequence& sequence) {
  return (sequence.epoch() % 1024) * (1u << 20) + sequence.progress.round;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options, models::Model& model,
                                                       ThreadPool& pool, const Clock& clock) {
  RETURN_IF_ERROR(ValidateOptions(options, model.options()));
  EngineOptions resolved = options;
  resolved.max_step_tokens = std::min(options.max_step_tokens, model.options().max_step_tokens);
  KvMemoryOffer offer;
  if (options.kv_bytes == 0) {
    ASSIGN_OR_RETURN(offer, OfferKvMemory(model));
  }
  const int64_t context = model.options().max_positions;
  const bool speculates = options.speculation.num_drafters > 0;
  const auto row_width = static_cast<int32_t>(model.config().hidden_size);
  int64_t block_bytes = model.kv_layout().block_bytes;
  if (speculates) block_bytes += RowStore::BlockBytes(options.speculation.row_type, row_width);
  ASSIGN_OR_RETURN(const int32_t num_blocks,
                   NumKvBlocks({options.kv_bytes, block_bytes, options.max_sequences, context, offer.share},
                               offer.available_bytes));
  resolved.kv_bytes = num_blocks * block_bytes;
  const int64_t max_model_len =
      std::min<int64_t>(context, int64_t{num_blocks} * kBlock - options.max_draft_tokens - 1);
  if (max_model_len < kBlock) {
    return ResourceExhausted("kv-bytes: {} blocks of {} positions hold no sequence beside {} drafts",
                             num_blocks, kBlock, options.max_draft_tokens);
  }
  ASSIGN_OR_RETURN(auto kv, model.CreateKvCache(num_blocks));
  std::unique_ptr<HiddenRows> rows;
  if (speculates) {
    ASSIGN_OR_RETURN(auto store, RowStore::Create(options.speculation.row_type, row_width, num_blocks));
    rows = std::make_unique<HiddenRows>(std::move(store), clock);
  }
  ASSIGN_OR_RETURN(StepTimeModel step_time, LoadOrMeasureStepTime(model, *kv, pool, clock, kMeasurementLimit,
                                                                  options.step_time_cache_path));
  return std::make_unique<StepEngine>(resolved, static_cast<int32_t>(max_model_len), model, std::move(kv),
                                      std::move(rows), std::move(step_time), pool, clock);
}

StepEngine::StepEngine(const EngineOptions& options, int32_t max_model_len, models::Model& model,
                       std::unique_ptr<kernels::KvCache> kv, std::unique_ptr<HiddenRows> rows,
                       StepTimeModel step_time, ThreadPool& pool, const Clock& clock)
    : options_(options),
      max_model_len_(max_model_len),
      vocab_size_(static_cast<int32_t>(model.config().vocab_size)),
      limits_{options.max_step_tokens, std::min(options.max_step_tokens, model.options().max_logits_rows),
              options.prefill_chunk},
      model_(model),
      pool_(pool),
      clock_(clock),
      kv_(std::move(kv)),
      blocks_(kv_->num_blocks()),
      cache_(blocks_, options.prefix_cache),
      hidden_rows_(std::move(rows)),
      step_time_(std::move(step_time)),
      sampler_(pool, vocab_size_, limits_.max_logits_rows,
               {options.speculation.acceptance, options.speculation.synthetic_acceptance}) {
  running_.reserve(options_.max_sequences);
  wishes_.reserve(options_.max_sequences);
  parts_.reserve(options_.max_sequences);
  by_claim_.reserve(options_.max_sequences);
  leaders_.reserve(options_.max_sequences);
  rows_.reserve(options_.max_sequences);
  windows_.reserve(options_.max_sequences);
  tokens_.reserve(limits_.max_rows);
  positions_.reserve(limits_.max_rows);
  logits_rows_.reserve(limits_.max_logits_rows);
  if (options_.speculation.num_drafters > 0) {
    speculator_ = std::make_unique<Speculator>(options_.speculation, model_, options_.max_draft_tokens,
                                               *hidden_rows_, pool_, clock_);
    // Only blocks with rows are worth finding: without them a sequence could not be drafted.
    cache_.SetUsable([this](int32_t block) {
      return !hidden_rows_->projects() || hidden_rows_->store().Has(block, kBlock);
    });
  }
}

bool StepEngine::HasWork() const {
  const bool reports_due = std::ranges::any_of(
      streams_, [](const auto& entry) { return entry.second.report_due || !entry.second.finals.empty(); });
  if (reports_due || speculator_ == nullptr) return reports_due || !running_.empty();
  if (speculator_->HoldsAll(running_)) return false;
  const absl::Duration now = clock_.Now();
  return std::ranges::any_of(running_, [&](const auto& sequence) {
    return !speculator_->Holds(*sequence) || now >= sequence->progress.give_up_at;
  });
}

absl::Duration StepEngine::NextChange() const {
  return speculator_ == nullptr ? absl::InfiniteDuration() : speculator_->NextChange(running_);
}

std::vector<std::pair<StreamId, Report>> StepEngine::Step() {
  step_ = StepStats();
  const absl::Duration begin = clock_.Now();
  ExpireDeadlines();
  if (speculator_ != nullptr) {
    SettleStep();
    speculator_->Expire(running_);
  }
  PlanStep();
  ReserveBlocks();
  ReserveDrafts();
  BuildBatch();
  step_.plan = clock_.Now() - begin;
  absl::Duration computed;
  {
    // Until rows for the drafter have been projected, too, so that no thread has to be woken for them.
    const ThreadPool::Active active(pool_);
    if (!tokens_.empty()) {
      Compute();
      ObserveStep();
      if (record_) OpenRecord(begin);
    }
    computed = clock_.Now();
    if (!tokens_.empty()) Accept();
    RemoveEnded();
    if (speculator_ != nullptr) AskForDrafts();
  }
  auto reports = CollectReports();
  const absl::Duration projecting =
      hidden_rows_ != nullptr ? hidden_rows_->TakeProjectTime() : absl::ZeroDuration();
  step_.project += projecting;
  step_.deliver = clock_.Now() - computed - projecting;
  return reports;
}

void StepEngine::ExpireDeadlines() {
  if (running_.empty()) return;
  const absl::Time now = clock_.WallNow();
  for (const auto& sequence : running_) {
    if (now < sequence->request().deadline) continue;
    EndSequence(*sequence, SequenceEnd::kFailed,
                MakeStatus(absl::StatusCode::kDeadlineExceeded, "deadline exceeded after {} tokens",
                           sequence->output_len()));
  }
  RemoveEnded();
}

// While a prompt is in prefill another sequence may have computed its next blocks.
void StepEngine::ExtendFromPrefixCache(Sequence& sequence) {
  const int32_t kv_len_before = sequence.kv_len();
  while (sequence.kv_len() == sequence.num_shared_blocks * kBlock &&
         sequence.kv_len() + kBlock < sequence.confirmed_len()) {
    const int32_t shared = cache_.MatchNext(sequence.request().cache_owner, &sequence.prefix,
                                            sequence.tokens().subspan(sequence.kv_len(), kBlock));
    if (shared < 0) break;
    int32_t& own = sequence.blocks[sequence.num_shared_blocks++];
    cache_.Release({&own, 1});
    own = shared;
    sequence.AdvanceKv(kBlock);
  }
  const int32_t found = sequence.kv_len() - kv_len_before;
  if (found == 0) return;
  sequence.report.cached_length += found;
  totals_.cached_prompt_tokens += found;
  sequence.changed = true;
}

// Of several sequences about to compute the same block only the first does; the others take no rows and find
// the block in the cache at the next step. n answers to one prompt thus cost one prefill. Within one stream
// only: a stream's pace should not hang on another's budget.
void StepEngine::HoldBackTwins() {
  if (!options_.prefix_cache) return;
  leaders_.clear();
  for (size_t i = 0; i < running_.size(); ++i) {
    const Sequence& sequence = *running_[i];
    const int32_t begin = sequence.num_shared_blocks * kBlock;
    if (sequence.missing() <= 1 || begin + kBlock >= sequence.confirmed_len()) continue;
    const bool has_leader = std::ranges::any_of(leaders_, [&](const Sequence* leader) {
      return leader->stream() == sequence.stream() && leader->prefix.number == sequence.prefix.number &&
             leader->num_shared_blocks == sequence.num_shared_blocks &&
             leader->request().cache_owner == sequence.request().cache_owner &&
             std::ranges::equal(leader->tokens().subspan(begin, kBlock),
                                sequence.tokens().subspan(begin, kBlock));
    });
    if (has_leader && sequence.kv_len() == begin) {
      wishes_[i].missing = 0;
    } else {
      leaders_.push_back(&sequence);
    }
  }
}

void StepEngine::PlanStep() {
  wishes_.clear();
  budgets_.clear();
  parts_.clear();
  for (const auto& [id, stream] : streams_) budgets_.push_back(std::max(stream.prefill_token_budget, 0));
  for (const auto& sequence : running_) {
    if (sequence->state() == SequenceState::kPrefill) ExtendFromPrefixCache(*sequence);
    DropStaleDrafts(*sequence);
  }
  load_ = LoadWithoutDrafts(/*with_held=*/false);
  if (speculator_ != nullptr) PlanWindows();
  const bool nobody = speculator_ != nullptr && speculator_->HoldsAll(running_);  // only reports are due
  for (const auto& sequence : running_) {
    const auto stream = streams_.find(sequence->stream());
    wishes_.push_back({sequence->admission_number(),
                       static_cast<size_t>(std::distance(streams_.begin(), stream)), sequence->missing(),
                       UsableDrafts(*sequence)});
    if (nobody || (speculator_ != nullptr && speculator_->Holds(*sequence))) wishes_.back().missing = 0;
  }
  HoldBackTwins();
  const std::span<const SequenceRowsPlan> plan = planner_.Plan(limits_, wishes_, budgets_);
  for (size_t i = 0; i < running_.size(); ++i) {
    if (plan[i].rows > 0) parts_.push_back({running_[i].get(), plan[i].rows, plan[i].drafts});
  }
}

// Drafts meant for another state.
void StepEngine::DropStaleDrafts(Sequence& sequence) {
  PendingDrafts& drafts = sequence.drafts;
  if (drafts.tokens.empty()) return;
  if (sequence.state() == SequenceState::kDecoding && drafts.length == sequence.confirmed_len() &&
      drafts.anchor == sequence.anchor()) {
    return;
  }
  ++totals_.stale_messages;
  drafts.Clear();
}

// A window of k drafts yields up to k + 1 tokens, and no more than max_len allows are worth computing.
int32_t StepEngine::UsableDrafts(Sequence& sequence) {
  return std::min(sequence.drafts.window, sequence.max_len() - sequence.confirmed_len() - 1);
}

// with_held: also those that wait for drafts now and will decode later.
StepLoad StepEngine::LoadWithoutDrafts(bool with_held) const {
  StepLoad load;
  load.step_time = &step_time_;
  load.max_draft_rows = limits_.max_logits_rows;
  load.utilization = utilization_.ratio();
  for (const auto& sequence : running_) {
    if (!with_held && speculator_ != nullptr && speculator_->Holds(*sequence)) continue;
    if (sequence->state() == SequenceState::kDecoding) {
      ++load.num_anchors;
      load.num_kv_positions += sequence->confirmed_len();
    } else {
      load.num_prefill_tokens += std::min(sequence->missing(), limits_.prefill_chunk);
    }
  }
  load.num_prefill_tokens = std::min(load.num_prefill_tokens, limits_.max_rows);
  load.max_draft_rows = std::max(0, load.max_draft_rows - load.num_anchors);
  return load;
}

void StepEngine::PlanWindows() {
  drafted_.clear();
  for (const auto& sequence : running_) {
    if (!sequence->drafts.tokens.empty() && sequence->progress.drafter >= 0)
      drafted_.push_back(sequence.get());
  }
  speculator_->PlanWindows(load_, drafted_);
}

void StepEngine::AskForDrafts() {
  for (double wait : speculator_->TakeWaits()) step_.draft_waits.push_back(wait);
  speculator_->AskForDrafts(LoadWithoutDrafts(/*with_held=*/true), step_.forward + step_.sample, running_);
  speculator_->Flush();
}

// Blocks for known positions. Whoever yields last asks first, so a victim has not been served yet; it may be
// the asker itself, if all others have better claims.
void StepEngine::ReserveBlocks() {
  by_claim_.clear();
  for (Part& part : parts_) by_claim_.push_back(&part);
  std::ranges::sort(by_claim_,
                    [](const Part* a, const Part* b) { return b->sequence->YieldsTo(*a->sequence); });
  for (Part* part : by_claim_) {
    Sequence& sequence = *part->sequence;
    while (sequence.state() != SequenceState::kEnded &&
           !ReserveRows(sequence, sequence.kv_len() + part->rows)) {
      PreemptFor(sequence);
    }
  }
  std::erase_if(parts_, [](const Part& part) { return part.sequence->state() == SequenceState::kEnded; });
}

bool StepEngine::ReserveRows(Sequence& sequence, int32_t end_position) {
  while (static_cast<int32_t>(sequence.blocks.size()) * kBlock < end_position) {
    const int32_t block = cache_.Take();
    if (block < 0) return false;
    sequence.blocks.push_back(block);
  }
  return true;
}

void StepEngine::PreemptFor(const Sequence& sequence) {
  Sequence* victim = nullptr;
  for (const auto& candidate : running_) {
    if (candidate->state() == SequenceState::kEnded) continue;
    if (victim == nullptr || candidate->YieldsTo(*victim)) victim = candidate.get();
  }
  // Alone in the pool a sequence always has room: max_model_len sees to that.
  TANDEM_CHECK(victim != nullptr && (victim != &sequence || totals_.running_sequences > 1));
  ++totals_.preemptions;
  EndSequence(*victim, SequenceEnd::kPreempted);
}

// Drafts take what blocks are left and preempt nobody.
void StepEngine::ReserveDrafts() {
  for (Part& part : parts_) {
    if (part.drafts == 0) continue;
    const int32_t known_end = part.sequence->kv_len() + part.rows;
    if (ReserveRows(*part.sequence, known_end + part.drafts)) continue;
    part.drafts = static_cast<int32_t>(part.sequence->blocks.size()) * kBlock - known_end;
  }
}

void StepEngine::BuildBatch() {
  tokens_.clear();
  positions_.clear();
  logits_rows_.clear();
  rows_.clear();
  windows_.clear();
  for (const Part& part : parts_) {
    Sequence& sequence = *part.sequence;
    const auto first_row = static_cast<int32_t>(tokens_.size());
    const int32_t first_position = sequence.kv_len();
    const auto known = sequence.tokens().subspan(first_position, part.rows);
    tokens_.insert(tokens_.end(), known.begin(), known.end());
    const std::span<const int32_t> drafts(sequence.drafts.tokens.data(), part.drafts);
    tokens_.insert(tokens_.end(), drafts.begin(), drafts.end());
    const int32_t num_rows = part.rows + part.drafts;
    for (int32_t i = 0; i < num_rows; ++i) positions_.push_back(first_position + i);
    rows_.push_back({first_row, num_rows, first_position, sequence.blocks});
    if (part.reaches_anchor()) {
      windows_.push_back({&sequence, static_cast<int32_t>(logits_rows_.size()), drafts,
                          sequence.drafts.distributions, NoiseRound(sequence)});
      for (int32_t i = 0; i <= part.drafts; ++i) logits_rows_.push_back(first_row + part.rows - 1 + i);
    }
    step_.kv_context_tokens += first_position + num_rows;
    (sequence.state() == SequenceState::kDecoding ? step_.anchors : step_.prefill_tokens) += part.rows;
    step_.draft_tokens += part.drafts;
  }
  step_.sequences = static_cast<int>(parts_.size());
}

void StepEngine::Compute() {
  const absl::Duration begin = clock_.Now();
  const std::span<const int32_t> taps =
      hidden_rows_ == nullptr ? std::span<const int32_t>() : hidden_rows_->taps();
  model_.Forward({tokens_, positions_, rows_, logits_rows_, taps}, *kv_, outputs_);
  if (hidden_rows_ != nullptr) hidden_rows_->Add(rows_, outputs_.taps);
  const absl::Duration computed = clock_.Now();
  sampler_.Sample(outputs_.logits, windows_);
  if (hidden_rows_ != nullptr) step_.project = hidden_rows_->TakeProjectTime();
  step_.forward = computed - begin - step_.project;
  step_.sample = clock_.Now() - computed;
}

void StepEngine::ObserveStep() {
  const StepShape shape{step_.anchors + step_.draft_tokens, step_.kv_context_tokens, step_.prefill_tokens};
  step_.predicted_seconds = step_time_.Predict(shape);
  const absl::Duration real = step_.forward + step_.sample, now = clock_.Now();
  const double seconds = absl::ToDoubleSeconds(real);
  if (speculator_ != nullptr &&
      speculator_->ObserveStep(now - real, now, step_.predicted_seconds, running_)) {
    unsettled_.emplace(shape, seconds);
    step_.prediction_error = seconds > 0 ? std::abs(step_.predicted_seconds - seconds) / seconds : 0;
  } else {
    step_.prediction_error = step_time_.Observe(shape, seconds);
  }
  utilization_.Observe(
      {step_.anchors, step_.prefill_tokens, step_time_.Knee(), blocks_.in_use(), blocks_.total()});
}

// A step beside which drafting went on is learnt from without what drafting took: what is predicted are steps
// alone, else the same time would be counted as the step's and as the drafts'.
void StepEngine::SettleStep() {
  const std::optional<double> taken = speculator_->SettleStep(running_);
  if (unsettled_ && taken) step_time_.Observe(unsettled_->first, unsettled_->second - *taken);
  unsettled_.reset();
}

// What was known when the windows were chosen, and the step that followed.
void StepEngine::OpenRecord(absl::Duration begin) {
  StepDecision& decision = record_->Open(begin);
  decision.num_anchors = step_.anchors;
  decision.num_kv_positions = step_.kv_context_tokens - step_.draft_tokens;
  decision.num_prefill_tokens = step_.prefill_tokens;
  decision.max_draft_rows = load_.max_draft_rows;
  decision.draft_seconds = load_.draft_seconds;
  decision.utilization = load_.utilization;
  decision.predicted_seconds = step_.predicted_seconds;
}

void StepEngine::Accept() {
  for (const Part& part : parts_) {
    if (part.reaches_anchor()) continue;  // with its window, below
    part.sequence->AdvanceKv(part.rows);
    ShareFullBlocks(*part.sequence);
    part.sequence->changed = true;
  }
  for (const SampleWindow& window : windows_) AcceptWindow(window);
}

// The tokens sampled in a window stand up to and including the first that differs from its draft: each was
// sampled behind the right tokens. A stop token or max_len ends them earlier.
void StepEngine::AcceptWindow(const SampleWindow& window) {
  Sequence& sequence = *window.sequence;
  SequenceReport& report = sequence.report;
  const int32_t length = sequence.confirmed_len();
  const auto num_drafts = static_cast<int32_t>(window.drafts.size());
  report.drafted += static_cast<int64_t>(sequence.drafts.tokens.size());
  report.checked += num_drafts;
  step_.windows.push_back(num_drafts);
  totals_.drafted += static_cast<int64_t>(sequence.drafts.tokens.size());
  totals_.checked += num_drafts;
  sequence.AdvanceKv(sequence.missing() - 1);
  sequence.changed = true;

  SequenceEnd end = SequenceEnd::kRunning;
  bool goes_on = true;
  int32_t num_tokens = 0, num_accepted = 0, num_checked = num_drafts;
  while (goes_on) {
    SampledToken& sampled = sampler_.results()[window.first_row + num_tokens];
    if (!sampled.status.ok()) {
      // The model's doing, not the request's. What it computed must not reach others through the cache.
      EndSequence(sequence, SequenceEnd::kFailed,
                  Internal("no token at index {}: {}", sequence.confirmed_len(),
                           std::string(sampled.status.message())));
      return;
    }
    sequence.Confirm(sampled.token);
    report.new_tokens.push_back(sampled.token);
    report.drafted_marks.push_back(sampled.accepted ? 1 : 0);
    if (sampled.logprobs) report.logprobs.push_back(std::move(*sampled.logprobs));
    ++num_tokens;
    ++totals_.generated_tokens;
    const bool accepted = sampled.accepted;
    num_accepted += accepted;
    end = sequence.EndOfTokens();
    goes_on = accepted && end == SequenceEnd::kRunning;
    // Behind the end nothing can be learnt of the drafts that follow.
    if (accepted && !goes_on) num_checked = num_accepted;
  }
  report.accepted += num_accepted;
  totals_.accepted += num_accepted;
  report.length = sequence.confirmed_len();
  if (num_drafts > 0) {
    report.rounds_by_accepted.resize(static_cast<size_t>(options_.max_draft_tokens) + 1);
    ++report.rounds_by_accepted[static_cast<size_t>(num_accepted)];
    step_.accepted_lengths.push_back(num_tokens);
  }
  if (speculator_ != nullptr) speculator_->Observe(sequence, num_checked, num_accepted);
  if (record_) record_->Add(sequence, length, num_drafts, num_accepted);
  sequence.drafts.Clear();
  ShareFullBlocks(sequence);
  if (end != SequenceEnd::kRunning) EndSequence(sequence, end);
}

void StepEngine::ShareFullBlocks(Sequence& sequence) {
  if (!options_.prefix_cache) return;
  while ((sequence.num_shared_blocks + 1) * kBlock <= sequence.kv_len()) {
    int32_t& block = sequence.blocks[sequence.num_shared_blocks];
    const int32_t own = block;
    block = cache_.Insert(sequence.request().cache_owner, &sequence.prefix,
                          sequence.tokens().subspan(sequence.num_shared_blocks * kBlock, kBlock), block);
    // The known twin may be from before the present projection.
    if (block != own && hidden_rows_ != nullptr) {
      hidden_rows_->Project();
      hidden_rows_->store().Adopt(block, own);
    }
    ++sequence.num_shared_blocks;
  }
}

}  // namespace tandem::verifier
