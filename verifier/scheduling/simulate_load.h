// A SIMULATION of the step loop under load: the real policies, calibration, time models, utilization and
// probes, on an imagined machine with an imagined drafter. It shows how windows shrink and return with the
// load; it measures nothing. What is imagined: step times come from a table without noise, a draft is
// accepted with a fixed probability by its position, sequences never end and have no context, drafts are
// never late.
//
// The verifier starts with the table's first points measured, as a real one does at start, and learns the
// rest while it runs. Deterministic for a seed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "verifier/scheduling/step_time_model.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::verifier {

// Linear between points, and beyond the last.
struct SimulatedMachine {
  std::vector<StepTimePoint> step_times;                   // at least two, ascending
  double draft_base_seconds = 0, draft_slope_seconds = 0;  // D(n)
  // Of a draft round that the next step waits for: 0 = drafted beside other work on a device of its own, 1 =
  // one after the other.
  double interference = 0;

  double StepSeconds(int num_rows) const;
  double DraftSeconds(int num_sequences) const;
};

// Step times of Qwen3-8B in bf16 on an H100 as measured (one row 5.80 ms; 1.04x at 128 rows, 1.24x at 256, a
// cliff of 47 % to 384, 2.19x at 512); the draft time is a guess of a tenth of a step.
SimulatedMachine SimulatedH100With8B();

struct LoadSimulation {
  SimulatedMachine machine;
  WindowPolicy policy = {};
  // Of draft k, given that those before it were accepted.
  std::vector<double> acceptance = {0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5};
  // The drafter's confidence logits are those of `acceptance` and this much more (a shy head: below 0), with
  // noise. Absent: it gives none.
  std::optional<double> head_bias = std::nullopt;
  int max_step_rows = 2048;
  int settling_steps = 300;  // after each change of the load, not counted
  int counted_steps = 300;
  uint64_t seed = 1;
};

inline constexpr int kSteadySteps = 20;

// Averages over the counted steps at one load.
struct SimulatedLoad {
  int num_sequences = 0;
  double mean_window = 0;    // per sequence and step
  double drafted_share = 0;  // of sequences
  double utilization = 0;
  double tokens_per_second = 0;
  // Busy time at this load until drafts of half of the sequences were checked in kSteadySteps steps in a row,
  // probes apart; absent: never, in settling and counted steps together.
  std::optional<double> seconds_to_draft;
};

// One after the other, without a restart between the loads: numbers of sequences, each >= 1.
std::vector<SimulatedLoad> SimulateLoads(const LoadSimulation& simulation, std::span<const int> loads);

}  // namespace tandem::verifier
