// Step times of a model alone, without services: what a token costs, and what checking eight at once costs.
//
//   model_bench --model model.gguf --threads 2 --rounds 5
//
// Prints one JSON object: per number of tokens T of one sequence, all with logits rows, the seconds of a step
// (median, fastest, slowest of the rounds); and prefill seconds of --prefill tokens in steps of
// --prefill-chunk with one logits row. Rounds go through all sizes in turn, so that a slow spell of the
// machine meets all alike.
#include <algorithm>
#include <iostream>
#include <map>
#include <numeric>

#include "absl/time/clock.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/base/thread_pool.h"
#include "common/formats/checkpoint.h"
#include "common/models/model.h"
#include "nlohmann/json.hpp"

namespace tandem::models {
namespace {

constexpr char kProgram[] = "model_bench";
constexpr int kSizes[] = {1, 2, 4, 8, 16, 32};

struct Settings {
  std::string model, weights = "auto", activations = "int8", kv = "bf16";
  int threads = 2;
  int rounds = 5;
  int context = 256;  // positions before the measured rows
  int prefill = 512, prefill_chunk = 512;
  absl::Duration round_time = absl::Milliseconds(300);  // per size and round
};

// One sequence with blocks for every position it may reach.
class Bench {
 public:
  Bench(const Settings& settings, Model& model, kernels::KvCache& cache, int num_blocks)
      : settings_(settings), model_(model), cache_(cache), blocks_(static_cast<size_t>(num_blocks)) {
    std::iota(blocks_.begin(), blocks_.end(), 0);
  }

  // Seconds of one step of `rows` tokens at `position`.
  double Step(int rows, int position, int num_logits) {
    tokens_.resize(static_cast<size_t>(rows));
    positions_.resize(tokens_.size());
    std::iota(positions_.begin(), positions_.end(), position);
    const int64_t vocab = model_.config().vocab_size;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      tokens_[i] = static_cast<int32_t>(int64_t{positions_[i]} * 7919 % vocab);
    }
    logits_rows_.resize(static_cast<size_t>(num_logits));
    std::iota(logits_rows_.begin(), logits_rows_.end(), rows - num_logits);
    const kernels::SequenceRows sequence = {0, rows, position, blocks_};
    const absl::Time begin = absl::Now();
    model_.Forward({tokens_, positions_, {&sequence, 1}, logits_rows_, {}}, cache_, outputs_);
    return absl::ToDoubleSeconds(absl::Now() - begin);
  }

  double Prefill(int tokens) {
    double seconds = 0;
    for (int position = 0; position < tokens; position += settings_.prefill_chunk) {
      const int rows = std::min(settings_.prefill_chunk, tokens - position);
      seconds += Step(rows, position, position + rows == tokens ? 1 : 0);
    }
    return seconds;
  }

  // Median seconds of steps of `rows` tokens, all with logits, over round_time.
  double Decode(int rows) {
    std::vector<double> seconds;
    const absl::Time end = absl::Now() + settings_.round_time;
    do {
      seconds.push_back(Step(rows, settings_.context, rows));
    } while (absl::Now() < end);
    std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
    return seconds[seconds.size() / 2];
  }

 private:
  const Settings& settings_;
  Model& model_;
  kernels::KvCache& cache_;
  std::vector<int32_t> blocks_, tokens_, positions_, logits_rows_;
  Outputs outputs_;
};

nlohmann::json Spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {{"median", values[values.size() / 2]}, {"min", values.front()}, {"max", values.back()}};
}

absl::StatusOr<nlohmann::json> Run(const Settings& settings) {
  ModelOptions options;
  options.weight_type = kernels::ParseWeightType(settings.weights);
  options.activation_type = *kernels::ParseActivationType(settings.activations);
  options.kv_type = *kernels::ParseKvType(settings.kv);
  options.max_step_tokens = std::max(settings.prefill_chunk, kSizes[std::size(kSizes) - 1]);
  ASSIGN_OR_RETURN(const auto checkpoint, formats::Checkpoint::Open(settings.model));
  ThreadPool pool(settings.threads);
  ASSIGN_OR_RETURN(const auto model, LoadModel(*checkpoint, options, pool));
  const int positions = std::max(settings.prefill, settings.context + kSizes[std::size(kSizes) - 1]);
  if (positions > model->options().max_positions) {
    return InvalidArgument("prefill and context need {} positions, the model has {}", positions,
                           model->options().max_positions);
  }
  const int num_blocks = (positions + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
  ASSIGN_OR_RETURN(const auto cache, kernels::KvCache::Create(model->kv_layout(), num_blocks));
  Bench bench(settings, *model, *cache, num_blocks);

  std::map<int, std::vector<double>> steps;
  std::vector<double> prefill;
  bench.Prefill(positions);  // warms up, and fills the positions that decode steps read
  for (int round = 0; round < settings.rounds; ++round) {
    for (const int rows : kSizes) steps[rows].push_back(bench.Decode(rows));
    prefill.push_back(bench.Prefill(settings.prefill));
  }
  nlohmann::json result = {{"numerics", model->NumericsId()},
                           {"weight_bytes", model->WeightBytes()},
                           {"threads", settings.threads},
                           {"context", settings.context},
                           {"prefill_tokens", settings.prefill}};
  for (const auto& [rows, seconds] : steps) result["step_seconds"][std::to_string(rows)] = Spread(seconds);
  result["prefill_seconds"] = Spread(prefill);
  return result;
}

int Main(int argc, const char* const* argv) {
  Settings settings;
  OptionParser parser(kProgram, "Step times of a model alone, as one JSON object.");
  parser.AddString("model", &settings.model, "a model file or directory");
  parser.AddInteger("threads", &settings.threads, 1, 1024, "threads of a step");
  parser.AddInteger("rounds", &settings.rounds, 1, 1000, "times that every size is measured");
  parser.AddInteger("context", &settings.context, 0, 1 << 20, "positions before the measured tokens");
  parser.AddInteger("prefill", &settings.prefill, 1, 1 << 20, "tokens of the prompt");
  parser.AddInteger("prefill-chunk", &settings.prefill_chunk, 1, kMaxStepTokens, "tokens of a prefill step");
  parser.AddDuration("round-time", &settings.round_time, absl::Milliseconds(1), absl::Minutes(1),
                     "time for each size in each round");
  parser.AddChoice("dtype", &settings.weights, {"auto", "f32", "bf16", "int8", "q4"}, "weights in memory");
  parser.AddChoice("activations", &settings.activations, {"f32", "bf16", "int8"}, "input of products");
  parser.AddChoice("kv-dtype", &settings.kv, {"f32", "bf16"}, "KV cache");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  const absl::StatusOr<nlohmann::json> result = Run(settings);
  if (!result.ok()) return ReportStartFault(kProgram, result.status());
  std::cout << result->dump() << "\n";
  return 0;
}

}  // namespace
}  // namespace tandem::models

int main(int argc, char** argv) { return tandem::models::Main(argc, argv); }
