// Times of the kernels on the shapes of SmolLM2-135M. Not a test. For example
//   kernels_bench --benchmark_filter='Gemm/q4.*tokens:8/threads:2'
// Weights are cycled through copies of at least 64 MB, as a model's layers are. TANDEM_TARGET picks the
// target.
#include <benchmark/benchmark.h>

#include <memory>

#include "common/kernels/attention.h"
#include "common/kernels/dispatch.h"
#include "common/kernels/elementwise.h"
#include "common/kernels/gemm.h"
#include "common/kernels/test_matrices.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kCycledBytes = 64 << 20;

void BenchGemm(benchmark::State& state, WeightSource source, int64_t rows, int64_t cols) {
  const int tokens = static_cast<int>(state.range(0));
  ThreadPool pool(static_cast<int>(state.range(1)));
  std::vector<Matrix> copies;
  copies.push_back(MakeMatrix(source, rows, cols, 1));
  while (static_cast<int64_t>(copies.size()) * copies.front().bytes() < kCycledBytes) {
    copies.push_back(MakeMatrix(source, rows, cols, 1));
  }
  const std::vector<float> input = RandomFloats(tokens * cols, 2);
  std::vector<float> y(tokens * rows);
  Activations x(tokens, static_cast<int>(cols),
                source.quantised() ? ActivationType::kInt8 : ActivationType::kF32);
  size_t next = 0;
  const ThreadPool::Active active(pool);
  for (auto _ : state) {
    x.Load(input, tokens, static_cast<int>(cols), pool);
    Gemm(x, copies[next], y.data(), 0, pool);
    next = (next + 1) % copies.size();
    benchmark::DoNotOptimize(y.data());
  }
  const double per_second = static_cast<double>(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(per_second * static_cast<double>(copies.front().bytes()) * 1e-9,
                                              benchmark::Counter::kIsRate);
  state.counters["GFLOP/s"] = benchmark::Counter(
      per_second * 2e-9 * static_cast<double>(rows * cols * tokens), benchmark::Counter::kIsRate);
}

// All linear layers of one step of the whole model, logits for every token; rows 100 times the layers of one.
void BenchModel(benchmark::State& state, WeightSource source, WeightSource head_source) {
  constexpr int kLayers = 30, kHidden = 576, kInner = 1536, kKv = 192, kVocabulary = 49152;
  const int tokens = static_cast<int>(state.range(0));
  ThreadPool pool(static_cast<int>(state.range(1)));
  struct Layer {
    Matrix q, k, v, o, gate, up, down;
  };
  std::vector<Layer> layers;
  for (int i = 0; i < kLayers; ++i) {
    layers.push_back({MakeMatrix(source, kHidden, kHidden, 1), MakeMatrix(source, kKv, kHidden, 2),
                      MakeMatrix(source, kKv, kHidden, 3), MakeMatrix(source, kHidden, kHidden, 4),
                      MakeMatrix(source, kInner, kHidden, 5), MakeMatrix(source, kInner, kHidden, 6),
                      MakeMatrix(source, kHidden, kInner, 7)});
  }
  const Matrix head = MakeMatrix(head_source, kVocabulary, kHidden, 8);
  const std::vector<float> input = RandomFloats(tokens * kInner, 9), norm(kHidden, 1.0f);
  std::vector<float> y(int64_t{tokens} * kVocabulary), a(tokens * kInner), b(tokens * kInner),
      c(tokens * kInner);
  Activations x(tokens, kInner, source.quantised() ? ActivationType::kInt8 : ActivationType::kF32);
  for (auto _ : state) {
    const ThreadPool::Active active(pool);
    for (const Layer& layer : layers) {
      RmsNorm(input.data(), norm, 1e-5f, tokens, a.data(), pool);
      x.Load(a, tokens, kHidden, pool);
      const GemmOutput qkv[] = {{&layer.q, a.data()}, {&layer.k, b.data()}, {&layer.v, c.data()}};
      GemmMany(x, qkv, pool);
      x.Load(input, tokens, kHidden, pool);
      Gemm(x, layer.o, a.data(), 0, pool);
      RmsNorm(input.data(), norm, 1e-5f, tokens, a.data(), pool);
      x.Load(a, tokens, kHidden, pool);
      const GemmOutput gate_up[] = {{&layer.gate, b.data()}, {&layer.up, c.data()}};
      GemmMany(x, gate_up, pool);
      SwiGlu(b.data(), c.data(), tokens, kInner, a.data(), pool);
      x.Load(input, tokens, kInner, pool);
      Gemm(x, layer.down, b.data(), 0, pool);
    }
    x.Load(input, tokens, kHidden, pool);
    Gemm(x, head, y.data(), 0, pool);
    benchmark::DoNotOptimize(y.data());
  }
  state.counters["tok/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * tokens), benchmark::Counter::kIsRate);
}

// One layer of SmolLM2 (9 query heads, 3 of KV, 64 dimensions): `rows` last rows of a context.
void BenchAttention(benchmark::State& state, KvType type) {
  const int context = static_cast<int>(state.range(0)), num_rows = static_cast<int>(state.range(1));
  ThreadPool pool(static_cast<int>(state.range(2)));
  constexpr int kHeads = 9, kKvHeads = 3, kHeadDim = 64;
  const int num_blocks = (context + 15) / 16;
  auto cache = KvCache::Create(KvLayout::Create(type, {{kKvHeads, kHeadDim}}), num_blocks);
  TANDEM_CHECK(cache.ok());
  std::vector<int32_t> blocks(num_blocks);
  for (int i = 0; i < num_blocks; ++i) blocks[i] = i;
  const std::vector<float> kv = RandomFloats(size_t(context) * kKvHeads * kHeadDim, 1);
  const SequenceRows all = {0, context, 0, blocks};
  WriteKv(kv.data(), kv.data(), kKvHeads * kHeadDim, 0, {&all, 1}, **cache, pool);
  const SequenceRows rows = {0, num_rows, context - num_rows, blocks};
  const std::vector<float> q = RandomFloats(size_t(num_rows) * kHeads * kHeadDim, 2);
  std::vector<float> out(q.size());
  const ThreadPool::Active active(pool);
  for (auto _ : state) {
    Attention(q.data(), kHeads * kHeadDim, 0, {&rows, 1}, **cache, kHeads, 0.125f, out.data(),
              kHeads * kHeadDim, pool);
    benchmark::DoNotOptimize(out.data());
  }
  state.counters["positions/s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * context, benchmark::Counter::kIsRate);
}

void Register() {
  const std::vector<std::pair<const char*, WeightSource>> sources = {{"q4", kWeightSources[0]},
                                                                     {"int8", kWeightSources[2]},
                                                                     {"bf16", kWeightSources[4]},
                                                                     {"f32", kWeightSources[5]}};
  constexpr std::pair<int, int> kShapes[] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};
  const auto arguments = [](benchmark::internal::Benchmark* bench, const std::vector<int64_t>& tokens) {
    bench->ArgNames({"tokens", "threads"})->ArgsProduct({tokens, {1, 2}})->UseRealTime();
  };
  for (const auto& [name, source] : sources) {
    for (const auto& [rows, cols] : kShapes) {
      arguments(benchmark::RegisterBenchmark(fmt::format("Gemm/{}/{}x{}", name, rows, cols).c_str(),
                                             BenchGemm, source, int64_t{rows}, int64_t{cols}),
                {1, 2, 4, 8, 16, 64, 512});
    }
    // The default model's file: Q4_1 layers under a Q8_0 head.
    const WeightSource head = source.type == WeightType::kInt4 ? kWeightSources[2] : source;
    arguments(benchmark::RegisterBenchmark(fmt::format("Model/{}", name).c_str(), BenchModel, source, head)
                  ->Unit(benchmark::kMillisecond),
              {1, 2, 4, 8, 16, 64, 512});
  }
  for (const KvType type : {KvType::kInt8, KvType::kBF16, KvType::kF32}) {
    benchmark::RegisterBenchmark(fmt::format("Attention/{}", KvTypeName(type)).c_str(), BenchAttention, type)
        ->ArgNames({"context", "rows", "threads"})
        ->ArgsProduct({{128, 1024, 8192}, {1, 8, 64}, {1, 2}})
        ->Unit(benchmark::kMicrosecond)
        ->UseRealTime();
  }
}

}  // namespace
}  // namespace tandem::kernels

int main(int argc, char** argv) {
  const absl::Status status = tandem::kernels::SelectTargetFromEnvironment();
  if (!status.ok()) {
    fmt::print(stderr, "{}\n", std::string(status.message()));
    return 1;
  }
  tandem::kernels::Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("kernel target", tandem::kernels::ActiveTarget());
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
