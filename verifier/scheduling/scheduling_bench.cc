// Time to decide on a step's drafts: bin/scheduling_bench. Goal G10: 256 sequences of 7 drafts in 20 to 100
// us.
#include <benchmark/benchmark.h>

#include <random>

#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

constexpr size_t kNumDrafts = 7;

std::vector<std::vector<double>> FullSurvivals(size_t num_sequences) {
  std::mt19937_64 rng(1);
  std::uniform_real_distribution<double> confidence(0.5, 1);
  std::vector<std::vector<double>> all(num_sequences, std::vector<double>(kNumDrafts));
  for (auto& survivals : all) {
    double product = 1;
    for (double& survival : survivals) survival = product *= confidence(rng);
  }
  return all;
}

void Windows(benchmark::State& state) {
  const auto num_sequences = static_cast<size_t>(state.range(0));
  const auto survivals = FullSurvivals(num_sequences);
  std::vector<DraftedSequence> sequences;
  for (size_t i = 0; i < num_sequences; ++i) sequences.push_back({.order = i, .survivals = survivals[i]});
  const StepTimeModel model = LinearStepTime(10e-3, 5e-6);
  const StepLoad load = {.step_time = &model,
                         .num_anchors = static_cast<int>(num_sequences),
                         .max_draft_rows = static_cast<int>(num_sequences * kNumDrafts)};
  std::vector<int> windows;
  for (auto _ : state) {
    ChooseWindows({}, load, sequences, windows);
    benchmark::DoNotOptimize(windows.data());
  }
}

void Drafting(benchmark::State& state) {
  const auto num_sequences = static_cast<size_t>(state.range(0));
  const auto survivals = FullSurvivals(num_sequences);
  std::vector<DraftCandidate> candidates;
  std::vector<double> draft_seconds = {0};
  for (size_t i = 0; i < num_sequences; ++i) {
    candidates.push_back({i, survivals[i], true});
    draft_seconds.push_back(1e-3 + 1e-5 * static_cast<double>(i + 1));
  }
  const StepTimeModel model = LinearStepTime(10e-3, 5e-6);
  const StepLoad load = {.step_time = &model,
                         .num_anchors = static_cast<int>(num_sequences),
                         .max_draft_rows = static_cast<int>(num_sequences * kNumDrafts)};
  std::vector<bool> draft;
  for (auto _ : state) {
    ChooseDrafting({}, load, draft_seconds, candidates, draft);
    benchmark::DoNotOptimize(draft);
  }
}

BENCHMARK(Windows)->Arg(1)->Arg(16)->Arg(256)->Unit(benchmark::kMicrosecond);
BENCHMARK(Drafting)->Arg(1)->Arg(16)->Arg(256)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tandem::verifier

BENCHMARK_MAIN();
