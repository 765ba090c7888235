#include "verifier/scheduling/simulate_load.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "common/base/status.h"
#include "verifier/scheduling/calibration.h"
#include "verifier/scheduling/draft_probe.h"
#include "verifier/scheduling/draft_time_model.h"
#include "verifier/scheduling/utilization.h"

namespace tandem::verifier {
namespace {

constexpr int kBucket = 0;

// In [0, 1), the same on every machine.
double Uniform(std::mt19937_64& rng) { return static_cast<double>(rng() >> 11) * 0x1p-53; }

StepTimeModel MeasureAtStart(const SimulatedMachine& machine) {
  std::vector<StepTimePoint> points;
  for (const int rows : kMeasuredDecodeRows) points.push_back({rows, machine.StepSeconds(rows)});
  auto model = StepTimeModel::FromMeasurements(points);
  TANDEM_CHECK(model.ok());
  return *std::move(model);
}

class Simulator {
 public:
  explicit Simulator(const LoadSimulation& simulation)
      : simulation_(simulation),
        step_time_(MeasureAtStart(simulation.machine)),
        calibration_(static_cast<int>(simulation.acceptance.size())),
        rng_(simulation.seed) {}

  SimulatedLoad Run(int num_sequences) {
    TANDEM_CHECK(num_sequences >= 1);
    drafted_.resize(static_cast<size_t>(num_sequences), false);
    probed_.resize(drafted_.size(), false);
    busy_seconds_ = 0;
    seconds_to_draft_.reset();
    num_steady_steps_ = 0;
    for (int i = 0; i < simulation_.settling_steps; ++i) Step(num_sequences);
    sum_ = {};
    for (int i = 0; i < simulation_.counted_steps; ++i) Step(num_sequences);
    const double all = static_cast<double>(num_sequences) * simulation_.counted_steps;
    return {.num_sequences = num_sequences,
            .mean_window = sum_.windows / all,
            .drafted_share = sum_.drafted / all,
            .utilization = utilization_.ratio(),
            .tokens_per_second = sum_.tokens / sum_.seconds,
            .seconds_to_draft = seconds_to_draft_};
  }

 private:
  // A step with the drafts that were asked for in the last one, and the choice for the next.
  void Step(int num_sequences) {
    StepLoad load = {.step_time = &step_time_,
                     .num_anchors = num_sequences,
                     .max_draft_rows = std::max(0, simulation_.max_step_rows - num_sequences),
                     .utilization = utilization_.ratio()};
    const auto num_drafted = static_cast<int>(std::count(drafted_.begin(), drafted_.end(), true));
    load.draft_seconds = DraftCost(num_drafted);
    CheckDrafts(load, num_drafted);
    utilization_.Observe({.num_anchors = num_sequences, .knee = step_time_.Knee(), .kv_blocks_total = 1});
    load.utilization = utilization_.ratio();
    AskForDrafts(load);
  }

  void CheckDrafts(const StepLoad& load, int num_drafted) {
    const auto num_drafts = static_cast<int>(simulation_.acceptance.size());
    sequences_.clear();
    logits_.resize(drafted_.size());
    survivals_.resize(drafted_.size());
    for (size_t i = 0; i < drafted_.size(); ++i) {
      if (!drafted_[i]) continue;
      HeadLogits(logits_[i]);
      calibration_.Survivals(kBucket, logits_[i], num_drafts, survivals_[i]);
      sequences_.push_back({.order = i, .survivals = survivals_[i], .probe = probed_[i]});
    }
    ChooseWindows(simulation_.policy, load, sequences_, windows_);
    int num_rows = load.num_anchors, num_checked = 0;
    for (size_t i = 0; i < windows_.size(); ++i) {
      const int window = windows_[i], accepted = Accept(window);
      calibration_.Observe(kBucket, logits_[sequences_[i].order], window, accepted);
      if (sequences_[i].probe) probe_.Observe(window, accepted);
      num_rows += window;
      num_checked += window > 0 && !sequences_[i].probe;
      sum_.windows += window;
      sum_.tokens += accepted;
    }
    const double step_seconds = simulation_.machine.StepSeconds(num_rows);
    const double draft_seconds = simulation_.machine.DraftSeconds(num_drafted);
    step_time_.Observe({.num_decode_rows = num_rows}, step_seconds);
    if (num_drafted > 0) {
      draft_time_.ObserveRound(num_drafted, draft_seconds);
      draft_time_.ObserveOverlap(
          step_seconds, step_seconds + simulation_.machine.interference * draft_seconds, draft_seconds);
    }
    sum_.tokens += load.num_anchors;
    sum_.drafted += num_drafted;
    sum_.seconds += step_seconds + simulation_.machine.interference * draft_seconds;
    if (num_steady_steps_ == 0) steady_since_ = busy_seconds_;
    num_steady_steps_ = 2 * num_checked >= load.num_anchors ? num_steady_steps_ + 1 : 0;
    if (num_steady_steps_ == kSteadySteps && !seconds_to_draft_) seconds_to_draft_ = steady_since_;
    busy_seconds_ += step_seconds + simulation_.machine.interference * draft_seconds;
  }

  // Of one sequence's drafts: the truth, the head's bias, and noise that it cannot be blamed for.
  void HeadLogits(std::vector<float>& logits) {
    logits.clear();
    if (!simulation_.head_bias) return;
    for (const double accepted : simulation_.acceptance) {
      logits.push_back(static_cast<float>(std::log(accepted / (1 - accepted)) + *simulation_.head_bias +
                                          Uniform(rng_) - 0.5));
    }
  }

  int Accept(int window) {
    int accepted = 0;
    while (accepted < window && Uniform(rng_) < simulation_.acceptance[static_cast<size_t>(accepted)])
      ++accepted;
    return accepted;
  }

  void AskForDrafts(const StepLoad& load) {
    candidates_.clear();
    costs_.clear();
    for (size_t i = 0; i < drafted_.size(); ++i) {
      candidates_.push_back({i, calibration_.ExpectedSurvivals(kBucket), drafted_[i] && !probed_[i]});
    }
    for (size_t n = 0; n <= drafted_.size(); ++n) costs_.push_back(DraftCost(static_cast<int>(n)));
    ChooseDrafting(simulation_.policy, load, costs_, candidates_, drafted_);
    probed_.assign(drafted_.size(), false);
    const std::optional<size_t> probe = probe_.Step(simulation_.policy, load, costs_, candidates_, drafted_);
    if (probe.has_value()) probed_[*probe] = true;
  }

  double DraftCost(int num_sequences) const {
    return draft_time_.Interference() * draft_time_.RoundSeconds(num_sequences);
  }

  const LoadSimulation& simulation_;
  StepTimeModel step_time_;
  Calibration calibration_;
  DraftTimeModel draft_time_;
  Utilization utilization_;
  DraftProbe probe_;
  std::mt19937_64 rng_;
  struct {
    double tokens = 0, seconds = 0, windows = 0, drafted = 0;
  } sum_;
  double busy_seconds_ = 0;  // at this load
  int num_steady_steps_ = 0;
  double steady_since_ = 0;
  std::optional<double> seconds_to_draft_;
  std::vector<bool> drafted_, probed_;  // by sequence
  // Work areas.
  std::vector<double> costs_;
  std::vector<std::vector<double>> survivals_;  // by sequence
  std::vector<std::vector<float>> logits_;
  std::vector<DraftedSequence> sequences_;
  std::vector<DraftCandidate> candidates_;
  std::vector<int> windows_;
};

}  // namespace

double SimulatedMachine::StepSeconds(int num_rows) const {
  size_t i = 0;
  while (i + 2 < step_times.size() && num_rows > step_times[i + 1].num_decode_rows) ++i;
  const StepTimePoint& low = step_times[i];
  const StepTimePoint& high = step_times[i + 1];
  const double share =
      static_cast<double>(num_rows - low.num_decode_rows) / (high.num_decode_rows - low.num_decode_rows);
  return low.seconds + share * (high.seconds - low.seconds);
}

double SimulatedMachine::DraftSeconds(int num_sequences) const {
  return num_sequences == 0 ? 0 : draft_base_seconds + draft_slope_seconds * num_sequences;
}

SimulatedMachine SimulatedH100With8B() {
  constexpr double kOne = 5.80e-3;
  return {.step_times = {{1, kOne},
                         {128, 1.04 * kOne},
                         {256, 1.24 * kOne},
                         {384, 1.24 * 1.47 * kOne},
                         {512, 2.19 * kOne}},
          .draft_base_seconds = 0.1 * kOne,
          .draft_slope_seconds = 0.0005 * kOne,
          .interference = 1};
}

std::vector<SimulatedLoad> SimulateLoads(const LoadSimulation& simulation, std::span<const int> loads) {
  TANDEM_CHECK(simulation.machine.step_times.size() >= 2 && !simulation.acceptance.empty());
  Simulator simulator(simulation);
  std::vector<SimulatedLoad> results;
  for (const int num_sequences : loads) results.push_back(simulator.Run(num_sequences));
  return results;
}

}  // namespace tandem::verifier
