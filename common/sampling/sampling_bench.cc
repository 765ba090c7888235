// Time to choose one token from a row of logits: bin/sampling_bench
#include <benchmark/benchmark.h>

#include <random>

#include "common/sampling/sampler.h"

namespace tandem::sampling {
namespace {

// Rows as a language model gives them: a broad bulk and a head whose k-th logit falls with log k.
std::vector<float> MakeRow(size_t vocab_size, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> bulk(0, 2);
  std::vector<float> row(vocab_size);
  for (float& z : row) z = bulk(rng);
  for (int k = 1; k <= 200; ++k) row[rng() % vocab_size] = 14.0f - 1.5f * std::log(static_cast<float>(k));
  return row;
}

void Run(benchmark::State& state, const SamplingParams& params) {
  const auto vocab_size = static_cast<size_t>(state.range(0));
  std::vector<std::vector<float>> rows;
  for (uint64_t i = 0; i < 8; ++i) rows.push_back(MakeRow(vocab_size, i));
  Scratch scratch;
  uint64_t index = 0;
  for (auto _ : state) {
    const auto token = SampleCoupled(rows[index % rows.size()], {&params, nullptr, {}, index}, scratch);
    benchmark::DoNotOptimize(token);
    ++index;
  }
}

void Logprobs(benchmark::State& state) {
  const std::vector<float> row = MakeRow(static_cast<size_t>(state.range(0)), 1);
  for (auto _ : state) benchmark::DoNotOptimize(ComputeLogprobs(row, 1, 20));
}

#define ROWS Arg(49152)->Arg(151936)->Unit(benchmark::kMicrosecond)
BENCHMARK_CAPTURE(Run, greedy, SamplingParams{.temperature = 0})->ROWS;
BENCHMARK_CAPTURE(Run, t1, SamplingParams{})->ROWS;
BENCHMARK_CAPTURE(Run, t1_top_p_0_9, SamplingParams{.top_p = 0.9f})->ROWS;
BENCHMARK_CAPTURE(Run, t1_top_k_40, SamplingParams{.top_k = 40})->ROWS;
BENCHMARK_CAPTURE(Run, t1_top_k_40_top_p_0_9, SamplingParams{.top_k = 40, .top_p = 0.9f})->ROWS;
BENCHMARK_CAPTURE(Run, t1_min_p_0_05, SamplingParams{.min_p = 0.05f})->ROWS;
BENCHMARK_CAPTURE(Run, t1_biased, SamplingParams{.logit_bias = {{5, 1.0f}}})->ROWS;
BENCHMARK(Logprobs)->ROWS;

}  // namespace
}  // namespace tandem::sampling

BENCHMARK_MAIN();
