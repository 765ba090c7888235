// Where the time of a model's steps goes, by stage, with the work that each stage had.
//
//   model.profile().Enable();
//   model.Forward(...);
//   model.profile().totals(Stage::kGateUp).seconds();
//
// The model calls Begin once a step, then Charge behind each stage: what has passed since the last call is
// that stage's. Off (the default), both are a branch; on, a stage costs a look at the clock, about 25 ns. Not
// thread-safe: the thread that calls Forward.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace tandem::models {

enum class Stage { kQkv, kAttentionOutput, kGateUp, kDown, kHead, kAttention, kSmall };
inline constexpr int kNumStages = 7;

// As metrics spell them: "qkv", "attention_output", ... in the enum's order.
inline const std::vector<std::string>& StageNames() {
  static const std::vector<std::string> names{"qkv",  "attention_output", "gate_up", "down",
                                              "head", "attention",        "small"};
  return names;
}

// Bytes of weights or KV that must be read, whatever is in caches; a fused multiply-add is two operations.
struct StageWork {
  int64_t bytes = 0, operations = 0;
};

class StepProfile {
 public:
  struct Totals {
    int64_t nanoseconds = 0;
    StageWork work;
    double seconds() const { return static_cast<double>(nanoseconds) * 1e-9; }
  };

  void Enable() { enabled_ = true; }
  bool enabled() const { return enabled_; }

  void Begin() {
    if (enabled_) last_ = Now();
  }
  void Charge(Stage stage) {
    if (enabled_) Add(stage, {});
  }
  // `work()` is asked only when it is wanted.
  template <typename Work>
  void Charge(Stage stage, const Work& work) {
    if (enabled_) Add(stage, work());
  }

  const Totals& totals(Stage stage) const { return totals_[static_cast<size_t>(stage)]; }

 private:
  static int64_t Now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  void Add(Stage stage, const StageWork& work) {
    const int64_t now = Now();
    Totals& totals = totals_[static_cast<size_t>(stage)];
    totals.nanoseconds += now - last_;
    totals.work.bytes += work.bytes;
    totals.work.operations += work.operations;
    last_ = now;
  }

  bool enabled_ = false;
  int64_t last_ = 0;  // ns
  std::array<Totals, kNumStages> totals_{};
};

}  // namespace tandem::models
