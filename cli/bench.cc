#include "cli/bench.h"

#include <fmt/format.h>
#include <signal.h>

#include <fstream>
#include <iostream>

#include "cli/engine_access.h"
#include "cli/load_generator.h"
#include "cli/stack_options.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace tandem::cli {
namespace {

constexpr char kProgram[] = "tandem bench";

nlohmann::json Distribution(std::vector<double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return {{"mean", values.empty() ? 0 : sum / static_cast<double>(values.size())},
          {"p50", Percentile(values, 0.50)},
          {"p90", Percentile(values, 0.90)},
          {"p99", Percentile(values, 0.99)},
          {"max", Percentile(values, 1.0)}};
}

nlohmann::json Summarise(const LoadOptions& options, const LoadResult& result) {
  std::vector<double> ttft, tpot, total, late;
  int64_t prompt_tokens = 0, output_tokens = 0;
  nlohmann::json errors = nlohmann::json::object();
  int failed = 0;
  for (const RequestResult& request : result.requests) {
    if (!request.status.ok()) {
      ++failed;
      const std::string message(request.status.message());
      errors[message] = errors.value(message, 0) + 1;
      continue;
    }
    prompt_tokens += request.prompt_tokens;
    output_tokens += request.output_tokens;
    ttft.push_back(absl::ToDoubleMilliseconds(request.first_text));
    total.push_back(absl::ToDoubleMilliseconds(request.total));
    late.push_back(absl::ToDoubleMilliseconds(request.queued));
    if (request.output_tokens > 1) {
      tpot.push_back(absl::ToDoubleMilliseconds(request.total - request.first_text) /
                     static_cast<double>(request.output_tokens - 1));
    }
  }
  const double seconds = absl::ToDoubleSeconds(result.wall);
  nlohmann::json summary = {
      {"requests", options.num_requests},
      {"failed", failed},
      {"errors", errors},
      {"wall_seconds", seconds},
      {"generator_cpu_seconds", absl::ToDoubleSeconds(result.generator_cpu)},
      {"prompt_tokens", prompt_tokens},
      {"output_tokens", output_tokens},
      {"output_tokens_per_second", seconds > 0 ? static_cast<double>(output_tokens) / seconds : 0},
      {"requests_per_second", seconds > 0 ? (options.num_requests - failed) / seconds : 0},
      {"ttft_ms", Distribution(ttft)},
      {"tpot_ms", Distribution(tpot)},
      {"end_to_end_ms", Distribution(total)},
  };
  if (options.rate > 0) {
    summary["rate"] = options.rate;
    summary["generator_late_ms"] = Distribution(late);
  } else {
    summary["concurrency"] = options.concurrency;
  }
  return summary;
}

void PrintRow(const char* name, const nlohmann::json& row) {
  fmt::print("{:<14}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}{:>10.2f}\n", name, row["mean"].get<double>(),
             row["p50"].get<double>(), row["p90"].get<double>(), row["p99"].get<double>(),
             row["max"].get<double>());
}

void PrintTable(const nlohmann::json& summary) {
  fmt::print("{} requests, {} failed, {}, {:.1f} s\n", summary["requests"].get<int>(),
             summary["failed"].get<int>(),
             summary.contains("rate") ? fmt::format("{} requests/s offered", summary["rate"].get<double>())
                                      : fmt::format("{} at a time", summary["concurrency"].get<int>()),
             summary["wall_seconds"].get<double>());
  fmt::print("{:.1f} output tokens/s, {:.2f} requests/s ({} prompt and {} output tokens)\n\n",
             summary["output_tokens_per_second"].get<double>(), summary["requests_per_second"].get<double>(),
             summary["prompt_tokens"].get<int64_t>(), summary["output_tokens"].get<int64_t>());
  fmt::print("{:<14}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "ms", "mean", "p50", "p90", "p99", "max");
  PrintRow("TTFT", summary["ttft_ms"]);
  PrintRow("TPOT", summary["tpot_ms"]);
  PrintRow("end to end", summary["end_to_end_ms"]);
  if (summary.contains("generator_late_ms")) PrintRow("sent late", summary["generator_late_ms"]);
  fmt::print("\nload generator: {:.2f} s CPU\n", summary["generator_cpu_seconds"].get<double>());
  for (const auto& [message, count] : summary["errors"].items()) {
    fmt::print("error ({}x): {}\n", count.get<int>(), message);
  }
}

}  // namespace

int BenchMain(int argc, const char* const* argv) {
  LoadOptions load;
  std::string http, model, drafter = "auto", prompts, json_path;
  std::vector<std::string> settings;
  int64_t seed = 1;
  int warmup = 2;
  OptionParser parser(
      kProgram,
      "Measures a running gateway, or one started for the time being: latency percentiles and "
      "throughput, closed loop (--concurrency) or open loop (--rate).");
  parser.AddString("http", &http, "the gateway's HOST:PORT; default: 127.0.0.1:8000 if one is ready there");
  parser.AddString("model", &model, "start an engine with this model (file, directory or name) instead");
  parser.AddString("drafter", &drafter, std::string("of an engine started here: ") + kDrafterHelp);
  parser.AddStringList("set", &settings, "PROCESS.FLAG=VALUE for an engine started here, as in tandem up");
  parser.AddInteger("concurrency", &load.concurrency, 1, 1024, "closed loop: requests in flight");
  parser.AddNumber("rate", &load.rate, 0, 1e6, "open loop: Poisson arrivals per second; 0: closed loop");
  parser.AddInteger("requests", &load.num_requests, 1, 1'000'000, "requests in all");
  parser.AddInteger("warmup", &warmup, 0, 1000, "requests before those, not counted");
  parser.AddInteger("max-tokens", &load.max_tokens, 1, INT32_MAX, "output tokens per request at most");
  parser.AddNumber("temperature", &load.temperature, 0, 2, "0: greedy");
  parser.AddInteger("seed", &seed, 0, INT64_MAX, "of arrivals and requests");
  parser.AddString("prompts", &prompts, "JSONL file of {\"turns\": [\"...\"]}; the first turn is sent");
  parser.AddString("json", &json_path, "also write the figures to this file");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  load.seed = static_cast<uint64_t>(seed);

  load.prompts = BuiltInPrompts();
  if (!prompts.empty()) {
    auto read = ReadPrompts(prompts);
    if (!read.ok()) return ReportStartFault(kProgram, read.status());
    load.prompts = *std::move(read);
  }
  for (const std::string& setting : settings) {
    if (const auto flag = ParseProcessFlag(setting); !flag.ok()) {
      std::cerr << kProgram << ": " << flag.status().message() << "\n";
      return 2;
    }
  }
  if (parser.check_config()) return 0;

  signal(SIGPIPE, SIG_IGN);
  auto access = EngineAccess::Open(http, model, drafter, settings);
  if (!access.ok()) return ReportStartFault(kProgram, access.status());
  load.http = (*access)->http();
  if (warmup > 0) {
    LoadOptions warm = load;
    warm.num_requests = warmup;
    warm.rate = 0;
    RunLoad(warm);
  }
  const nlohmann::json summary = Summarise(load, RunLoad(load));
  PrintTable(summary);
  if (!json_path.empty()) {
    std::ofstream file(json_path);
    file << summary.dump(2) << "\n";
    file.close();
    if (!file) return ReportStartFault(kProgram, Unavailable("cannot write {}", json_path));
  }
  return summary["failed"].get<int>() == 0 ? 0 : 1;
}

}  // namespace tandem::cli
