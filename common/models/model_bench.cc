// Step times of a model: `model_bench [Google Benchmark flags]`, file from TANDEM_SMOLLM2 or the user's
// cache.
//
// Step/T: one sequence of T new tokens after a context of TANDEM_CONTEXT (default 256), logits of all rows;
// V(8) is Step/8 / Step/1. Prefill/T: a prompt of T tokens from its beginning, logits of the last. Threads:
// TANDEM_THREADS (default 2); activations: TANDEM_ACTIVATIONS (default int8); weights: TANDEM_DTYPE (default:
// as the file holds them). The context of the output tells the weights' bytes and what the machine can do
// with as many threads: bytes/s read from a buffer of that size, f32 operations/s.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/formats/checkpoint.h"
#include "common/kernels/dispatch.h"
#include "common/kernels/machine_limits.h"
#include "common/models/model.h"
#include "tests/support/pulled_file.h"

namespace tandem::models {
namespace {

constexpr int kMaxTokens = 512;
constexpr absl::Duration kLimitTime = absl::Milliseconds(400);

struct Bench {
  explicit Bench(int num_threads) : pool(num_threads) {}

  ThreadPool pool;
  int context = 0;
  std::unique_ptr<Model> model;
  std::unique_ptr<kernels::KvCache> cache;
  std::vector<int32_t> blocks;
  Outputs outputs;

  void Forward(int first_position, int tokens, bool all_logits) {
    std::vector<int32_t> ids(tokens), positions(tokens), logits_rows;
    for (int i = 0; i < tokens; ++i) {
      positions[i] = first_position + i;
      ids[i] = static_cast<int32_t>((positions[i] * 7919 + 13) % model->config().vocab_size);
      if (all_logits || i == tokens - 1) logits_rows.push_back(i);
    }
    const kernels::SequenceRows rows = {0, tokens, first_position, blocks};
    model->Forward({ids, positions, {&rows, 1}, logits_rows, {}}, *cache, outputs);
  }
};

std::string Variable(const char* name, const char* otherwise) {
  const char* const value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

absl::StatusOr<std::unique_ptr<Bench>> CreateBench() {
  auto bench = std::make_unique<Bench>(std::max(1, std::atoi(Variable("TANDEM_THREADS", "2").c_str())));
  ASSIGN_OR_RETURN(const auto checkpoint, formats::Checkpoint::Open(testing::SmolLM2File()));
  bench->context = std::max(1, std::atoi(Variable("TANDEM_CONTEXT", "256").c_str()));
  const auto activations = kernels::ParseActivationType(Variable("TANDEM_ACTIVATIONS", "int8"));
  if (!activations.has_value()) return InvalidArgument("TANDEM_ACTIVATIONS: f32, bf16 or int8");
  ModelOptions options = {.activation_type = *activations,
                          .max_step_tokens = kMaxTokens,
                          .max_logits_rows = kMaxTokens,
                          .max_positions = bench->context + kMaxTokens};
  if (const std::string dtype = Variable("TANDEM_DTYPE", "auto"); dtype != "auto") {
    options.weight_type = kernels::ParseWeightType(dtype);
    if (!options.weight_type.has_value()) return InvalidArgument("TANDEM_DTYPE: auto, f32, bf16, int8 or q4");
  }
  ASSIGN_OR_RETURN(bench->model, LoadModel(*checkpoint, options, bench->pool));
  const int num_blocks =
      (options.max_positions + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
  ASSIGN_OR_RETURN(bench->cache, kernels::KvCache::Create(bench->model->kv_layout(), num_blocks));
  bench->blocks.resize(num_blocks);
  std::iota(bench->blocks.begin(), bench->blocks.end(), 0);
  for (int position = 0; position < bench->context; position += kMaxTokens) {
    bench->Forward(position, std::min(kMaxTokens, bench->context - position), false);
  }
  return bench;
}

absl::Status AddLimits(Bench& bench) {
  const int64_t bytes = bench.model->WeightBytes();
  ASSIGN_OR_RETURN(const double bandwidth, kernels::MeasureReadBandwidth(bytes, kLimitTime, bench.pool));
  benchmark::AddCustomContext("weight_bytes", std::to_string(bytes));
  benchmark::AddCustomContext("read_bytes_per_second", std::to_string(bandwidth));
  benchmark::AddCustomContext("f32_operations_per_second",
                              std::to_string(kernels::MeasureFmaRate(kLimitTime, bench.pool)));
  return absl::OkStatus();
}

void RunSteps(benchmark::State& state, Bench& bench, int first_position, bool all_logits) {
  const int tokens = static_cast<int>(state.range(0));
  for (auto _ : state) bench.Forward(first_position, tokens, all_logits);
  state.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["weight_GB/s"] = benchmark::Counter(static_cast<double>(bench.model->WeightBytes()) * 1e-9,
                                                     benchmark::Counter::kIsIterationInvariantRate);
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  if (const absl::Status status = kernels::SelectTargetFromEnvironment(); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 2;
  }
  auto bench = CreateBench();
  if (!bench.ok()) {
    std::fprintf(stderr, "%s\n", bench.status().ToString().c_str());
    return 1;
  }
  std::printf("%s on %s, %d threads\n", (*bench)->model->NumericsId().c_str(),
              kernels::ActiveTarget().c_str(), (*bench)->pool.num_threads());
  if (const absl::Status status = AddLimits(**bench); !status.ok()) {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    return 1;
  }
  const auto add = [&](const char* name, int first_position, bool all_logits) {
    const auto run = [&bench, first_position, all_logits](benchmark::State& state) {
      RunSteps(state, **bench, first_position, all_logits);
    };
    return benchmark::RegisterBenchmark(name, run)->Unit(benchmark::kMillisecond)->UseRealTime();
  };
  for (const int tokens : {1, 2, 4, 8, 16, 32, 64, 512}) add("Step", (*bench)->context, true)->Arg(tokens);
  for (const int tokens : {64, 512}) add("Prefill", 0, false)->Arg(tokens);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace tandem::models

int main(int argc, char** argv) { return tandem::models::Main(argc, argv); }
