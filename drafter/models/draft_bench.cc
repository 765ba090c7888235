// Times of a draft model: `draft_bench [Google Benchmark flags]`.
//
// Draft/B: one round of B sequences behind contexts of 256. Append/N: N confirmed rows of one sequence.
// TANDEM_DRAFTER: directory of the drafter (default: the default model's), TANDEM_SMOLLM2: its target;
// TANDEM_THREADS (default 2); TANDEM_TEMPERATURE (default 0). Options as tandem-drafter has them by default.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/formats/checkpoint.h"
#include "common/kernels/dispatch.h"
#include "drafter/models/load_draft_model.h"
#include "tests/support/pulled_file.h"

namespace tandem::drafter {
namespace {

constexpr int kContext = 256;
constexpr int kMaxSequences = 16;

std::string Variable(const char* name, const std::string& otherwise) {
  const char* const value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

struct Bench {
  explicit Bench(int num_threads) : pool(num_threads) {}

  ThreadPool pool;
  std::unique_ptr<DraftModel> model;
  std::unique_ptr<kernels::KvCache> kv;
  std::vector<std::vector<int32_t>> blocks;  // by sequence
  std::vector<int32_t> context;
  std::vector<float> rows;
  float temperature = 0;

  void Append(int sequence, int first_position, int num_rows) {
    const ContextRows part = {blocks[sequence], first_position, num_rows, rows.data(),
                              std::span(context).subspan(first_position, num_rows + 1)};
    model->AppendContext({&part, 1}, *kv);
  }
};

absl::StatusOr<std::unique_ptr<Bench>> CreateBench() {
  auto bench = std::make_unique<Bench>(std::max(1, std::atoi(Variable("TANDEM_THREADS", "2").c_str())));
  ASSIGN_OR_RETURN(const auto target, formats::Checkpoint::Open(testing::SmolLM2File()));
  DraftModelOptions options;
  options.path =
      Variable("TANDEM_DRAFTER", std::string(TANDEM_SOURCE_DIR) + "/drafter/default/smollm2-135m-dspark-r0");
  options.target = target.get();
  options.weight_type = kernels::WeightType::kInt8;
  options.markov_top_k = 64;
  options.draft_vocab = kUsualDraftVocab;
  ASSIGN_OR_RETURN(bench->model, LoadDraftModel(options, bench->pool));
  const DraftModelInfo& info = bench->model->info();
  const int blocks_each = (kContext + info.block_size) / kernels::kKvBlockPositions + 2;
  ASSIGN_OR_RETURN(bench->kv,
                   kernels::KvCache::Create(bench->model->kv_layout(), blocks_each * kMaxSequences));
  bench->context.resize(kContext + 64);
  for (size_t i = 0; i < bench->context.size(); ++i) {
    bench->context[i] = static_cast<int32_t>((i * 7919 + 13) % info.vocab_size);
  }
  bench->rows.resize(size_t{kContext} * info.projection.width);
  for (size_t i = 0; i < bench->rows.size(); ++i) bench->rows[i] = static_cast<float>(i % 17) * 0.1f - 0.8f;
  for (int s = 0; s < kMaxSequences; ++s) {
    bench->blocks.emplace_back(blocks_each);
    std::iota(bench->blocks[s].begin(), bench->blocks[s].end(), s * blocks_each);
    bench->Append(s, 0, kContext);
  }
  bench->temperature = static_cast<float>(std::atof(Variable("TANDEM_TEMPERATURE", "0").c_str()));
  return bench;
}

Bench& Shared() {
  static Bench& bench = *[] {
    auto created = CreateBench();
    if (!created.ok()) {
      std::fprintf(stderr, "draft_bench: %s\n", std::string(created.status().message()).c_str());
      std::exit(1);
    }
    std::printf("%s, %lld weight bytes, %s\n", (*created)->model->info().name.c_str(),
                static_cast<long long>((*created)->model->info().weight_bytes),
                std::string(kernels::ActiveTarget()).c_str());
    return created->release();
  }();
  return bench;
}

void Draft(benchmark::State& state) {
  Bench& bench = Shared();
  std::vector<DraftRequest> requests;
  for (int s = 0; s < state.range(0); ++s) {
    DraftRequest request;
    request.blocks = bench.blocks[s];
    request.context = std::span(bench.context).first(kContext + 1);
    request.start = kContext;
    request.id = s;
    request.epoch = request.round = 1;
    request.sampling.temperature = bench.temperature;
    request.sampling.seed = s;
    requests.push_back(request);
  }
  std::vector<DraftedBlock> drafts;
  for (auto _ : state) bench.model->Draft({}, requests, *bench.kv, drafts);
}

void Append(benchmark::State& state) {
  Bench& bench = Shared();
  for (auto _ : state) bench.Append(0, 0, static_cast<int>(state.range(0)));
}

BENCHMARK(Draft)->Arg(1)->Arg(2)->Arg(4)->Arg(8)->Arg(16)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(Append)->Arg(1)->Arg(3)->Arg(256)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tandem::drafter

BENCHMARK_MAIN();
