// A verifier for tests of the batcher and the core, behind the link interface: tokens are a function of (ids
// so far, prompt length, seed), so that any way of serving a sequence must give the same text.
//
// KV memory is counted in blocks: admissions without room, and the newest sequence when blocks run short, are
// preempted. The test says when it answers, steps, lies or dies; on a thread of its own (AwaitWork) it steps
// once for each plan, as a verifier does that waits for the gateway. Thread-safe; listeners are called
// without the lock.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/admission/verifier_link.h"

namespace tandem::gateway {

inline constexpr int32_t kFakeVocab = 260;
inline constexpr int32_t kFakeEos = 256;

// Letters and spaces, pseudo-random in everything they may depend on.
inline int32_t FakeToken(const std::vector<int32_t>& ids, int32_t /*prompt_length*/, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325u ^ seed;
  for (const int32_t id : ids) hash = (hash ^ static_cast<uint64_t>(id)) * 0x100000001b3u;
  hash ^= hash >> 31;
  const auto letter = static_cast<int32_t>(hash % 27);
  return letter == 26 ? ' ' : 'a' + letter;
}

using FakeTokenFunction = std::function<int32_t(const std::vector<int32_t>&, int32_t, uint64_t)>;

struct FakeVerifierOptions {
  FakeTokenFunction token = FakeToken;
  int total_blocks = 1000;
  int block_positions = 4;
  int max_sequences = 8;
  int max_model_len = 512;
  int burst = 1;  // tokens per sequence and step
  std::string fingerprint = "f1", numerics_id = "n1";
};

class FakeVerifier : public VerifierLink {
 public:
  using TokenFunction = FakeTokenFunction;
  using Options = FakeVerifierOptions;
  explicit FakeVerifier(Options options = {}) : options_(std::move(options)) {}

  // --- VerifierLink
  // -------------------------------------------------------------------------------------------
  void Connect(const GatewayHello& hello, Listener& listener) override {
    const std::lock_guard lock(mu_);
    listener_ = &listener;
    ++num_connects_;
    hello_ = hello;
    plan_number_ = report_number_ = 0;
    sequences_.clear();
    closing_.reset();
    greeted_ = report_due_ = false;
    changed_.notify_all();
  }
  uint64_t SendPlan(Plan plan) override {
    const std::lock_guard lock(mu_);
    if (listener_ == nullptr) return 0;
    plans_.push_back(plan);
    for (const Cancellation& c : plan.cancellations) {
      const auto it = sequences_.find(c.id);
      if (it != sequences_.end() && it->second.admission.epoch == c.epoch)
        it->second.end = SequenceEnd::kCancelled;
    }
    for (const Acknowledgement& a : plan.acknowledgements) {
      const auto it = sequences_.find(a.id);
      if (it == sequences_.end() || it->second.admission.epoch != a.epoch) continue;
      if (it->second.reported_end && a.length == static_cast<int64_t>(it->second.ids.size()))
        sequences_.erase(it);
    }
    for (Admission& a : plan.admissions) {
      admitted_.push_back(a);
      Running running;
      running.ids = a.token_ids;
      running.admission = std::move(a);
      running.order = ++order_;
      sequences_[running.admission.id] = std::move(running);
    }
    report_due_ = true;
    changed_.notify_all();
    return ++plan_number_;
  }
  void Close(const absl::Status& why) override {
    const std::lock_guard lock(mu_);
    closing_ = why;
    changed_.notify_all();
  }
  const std::string& name() const override { return name_; }

  // --- What the test makes it do
  // ------------------------------------------------------------------------------
  VerifierHello MakeHello() const {
    VerifierHello hello;
    hello.protocol_major = 1;
    hello.sampling_version = 1;
    hello.identity = {options_.fingerprint, options_.numerics_id};
    hello.vocab_size = kFakeVocab;
    hello.eos_token_ids = {kFakeEos};
    hello.max_model_len = static_cast<uint32_t>(options_.max_model_len);
    hello.kv_block_positions = static_cast<uint32_t>(options_.block_positions);
    hello.kv_total_blocks = static_cast<uint32_t>(options_.total_blocks);
    hello.max_sequences = static_cast<uint32_t>(options_.max_sequences);
    return hello;
  }
  void SayHello() { SayHello(MakeHello()); }
  void SayHello(VerifierHello hello) {
    {
      const std::lock_guard lock(mu_);
      greeted_ = report_due_ = true;
    }
    if (Listener* listener = Peer()) listener->OnHello(std::move(hello));
  }
  // One step: every sequence that fits gets up to `burst` tokens; then the report. `edit` may falsify it.
  void Step(const std::function<void(Report&)>& edit = nullptr) {
    std::optional<Report> report = MakeReport();
    Listener* listener = Peer();
    if (!report || listener == nullptr) return;
    if (edit) edit(*report);
    listener->OnReport(*std::move(report));
  }
  void SayDraining() {
    if (Listener* listener = Peer()) listener->OnDraining(absl::Seconds(30));
  }
  // The stream ends, by itself or because the gateway has closed it.
  void Die(absl::Status why = absl::UnavailableError("connection reset")) {
    Listener* listener = nullptr;
    {
      const std::lock_guard lock(mu_);
      listener = std::exchange(listener_, nullptr);
      sequences_.clear();
      if (closing_) why = *closing_;
      closing_.reset();
    }
    if (listener != nullptr) listener->OnClosed(std::move(why));
  }

  // --- On a thread of its own
  // ----------------------------------------------------------------------------------
  enum class Work { kSayHello, kStep, kDie, kStop };
  // Blocks until there is something to do, and says what.
  Work AwaitWork() {
    std::unique_lock lock(mu_);
    while (true) {
      if (stopped_) return Work::kStop;
      if (closing_) return Work::kDie;
      if (listener_ != nullptr && !greeted_) return Work::kSayHello;
      if (listener_ != nullptr && report_due_) return Work::kStep;
      changed_.wait(lock);
    }
  }
  // AwaitWork returns kStop from now on.
  void Stop() {
    const std::lock_guard lock(mu_);
    stopped_ = true;
    changed_.notify_all();
  }

  // --- What the test sees
  // -------------------------------------------------------------------------------------
  bool connected() const {
    const std::lock_guard lock(mu_);
    return listener_ != nullptr;
  }
  bool closing() const {
    const std::lock_guard lock(mu_);
    return closing_.has_value();
  }
  std::optional<absl::Status> close_reason() const {
    const std::lock_guard lock(mu_);
    return closing_;
  }
  int num_connects() const {
    const std::lock_guard lock(mu_);
    return num_connects_;
  }
  int num_preemptions() const {
    const std::lock_guard lock(mu_);
    return num_preemptions_;
  }
  GatewayHello gateway_hello() const {
    const std::lock_guard lock(mu_);
    return hello_;
  }
  // All admissions so far, in order.
  std::vector<Admission> admitted() const {
    const std::lock_guard lock(mu_);
    return admitted_;
  }
  std::vector<Plan> plans() const {
    const std::lock_guard lock(mu_);
    return plans_;
  }
  // Sequences that it still knows, ended ones that are not acknowledged included.
  size_t num_known() const {
    const std::lock_guard lock(mu_);
    return sequences_.size();
  }
  // Whether, within the time, all of them were acknowledged.
  bool AwaitNoneKnown(absl::Duration timeout) const {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout), [&] { return sequences_.empty(); });
  }
  int num_running() const {
    const std::lock_guard lock(mu_);
    return static_cast<int>(std::count_if(sequences_.begin(), sequences_.end(), [](const auto& s) {
      return s.second.end == SequenceEnd::kRunning;
    }));
  }

 private:
  struct Running {
    Admission admission;
    std::vector<int32_t> ids;
    int64_t order = 0;
    bool placed = false;
    SequenceEnd end = SequenceEnd::kRunning;
    bool reported_end = false;
  };

  Listener* Peer() const {
    const std::lock_guard lock(mu_);
    return listener_;
  }

  int Blocks(size_t length) const {
    return static_cast<int>((length + static_cast<size_t>(options_.block_positions) - 1)) /
           options_.block_positions;
  }
  int UsedBlocks() const {
    int used = 0;
    for (const auto& [id, s] : sequences_) {
      if (s.placed && s.end == SequenceEnd::kRunning) used += Blocks(s.ids.size());
    }
    return used;
  }

  void Extend(Running& s) {
    for (int i = 0; i < options_.burst && s.end == SequenceEnd::kRunning; ++i) {
      const int32_t id = options_.token(s.ids, s.admission.prompt_length, s.admission.sampling.seed);
      s.ids.push_back(id);
      const auto& stops = s.admission.stop_token_ids;
      const auto num_output = static_cast<int32_t>(s.ids.size()) - s.admission.prompt_length;
      if (std::find(stops.begin(), stops.end(), id) != stops.end()) {
        s.end = SequenceEnd::kStop;
      } else if (num_output == s.admission.max_tokens) {
        s.end = SequenceEnd::kLength;
      }
    }
  }

  std::optional<Report> MakeReport() {
    const std::lock_guard lock(mu_);
    if (listener_ == nullptr) return std::nullopt;
    std::map<uint64_t, size_t> old_length;
    for (auto& [id, s] : sequences_) old_length[id] = s.ids.size();
    std::vector<Running*> by_order;
    for (auto& [id, s] : sequences_) {
      if (s.end == SequenceEnd::kRunning) by_order.push_back(&s);
    }
    std::sort(by_order.begin(), by_order.end(), [](auto* a, auto* b) { return a->order < b->order; });
    for (Running* s : by_order) {
      if (s->end != SequenceEnd::kRunning) continue;
      if (!s->placed) {
        s->placed = UsedBlocks() + Blocks(s->ids.size()) <= options_.total_blocks;
        if (!s->placed) {
          s->end = SequenceEnd::kPreempted;
          ++num_preemptions_;
          continue;
        }
      }
      Extend(*s);
    }
    for (auto newest = by_order.rbegin(); newest != by_order.rend() && UsedBlocks() > options_.total_blocks;
         ++newest) {
      if ((*newest)->end != SequenceEnd::kRunning) continue;
      (*newest)->end = SequenceEnd::kPreempted;
      ++num_preemptions_;
    }
    report_due_ = std::any_of(sequences_.begin(), sequences_.end(),
                              [](const auto& entry) { return entry.second.end == SequenceEnd::kRunning; });
    Report report;
    report.number = ++report_number_;
    report.plan_number = plan_number_;
    report.kv_free_blocks = static_cast<uint32_t>(options_.total_blocks - UsedBlocks());
    report.sequence_share = static_cast<uint32_t>(options_.max_sequences);
    for (auto& [id, s] : sequences_) {
      if (s.reported_end) continue;
      SequenceReport entry;
      entry.id = id;
      entry.epoch = s.admission.epoch;
      entry.first_index = static_cast<uint32_t>(old_length[id]);
      entry.token_ids.assign(s.ids.begin() + static_cast<ptrdiff_t>(old_length[id]), s.ids.end());
      entry.length = static_cast<uint32_t>(s.ids.size());
      entry.computed_length = s.placed ? entry.length - (entry.token_ids.empty() ? 0 : 1) : 0;
      if (s.admission.num_logprobs) {
        for (const int32_t token : entry.token_ids) {
          sampling::TokenLogprobs logprobs;
          logprobs.chosen = -0.5f;
          for (int t = 0; t < *s.admission.num_logprobs; ++t)
            logprobs.top.emplace_back((token + t) % 256, -0.5f - t);
          entry.logprobs.push_back(logprobs);
        }
      }
      entry.drafted = entry.length;
      entry.end = s.end;
      s.reported_end = s.end != SequenceEnd::kRunning;
      report.sequences.push_back(std::move(entry));
    }
    return report;
  }

  const Options options_;
  const std::string name_ = "fake";
  mutable std::mutex mu_;
  mutable std::condition_variable changed_;
  Listener* listener_ = nullptr;
  bool greeted_ = false;     // since the last Connect
  bool report_due_ = false;  // something came that no report has answered, or a step has work
  bool stopped_ = false;
  std::optional<absl::Status> closing_;
  GatewayHello hello_;
  std::map<uint64_t, Running> sequences_;
  std::vector<Admission> admitted_;
  std::vector<Plan> plans_;
  uint64_t plan_number_ = 0, report_number_ = 0;
  int64_t order_ = 0;
  int num_connects_ = 0, num_preemptions_ = 0;
};

}  // namespace tandem::gateway
