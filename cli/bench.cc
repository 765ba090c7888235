#include "cli/bench.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <iostream>

#include "cli/bar_chart.h"
#include "cli/compare_policies.h"
#include "cli/engine_access.h"
#include "cli/load_generator.h"
#include "cli/profile.h"
#include "cli/stack_options.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"
#include "verifier/verifier_options.h"

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

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) return Unavailable("cannot write {}", path);
  return absl::OkStatus();
}

std::string Join(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// The table, the bars, and the files if asked for. 1 if texts differ though they must not.
int ShowComparison(const CompareOptions& options, const Comparison& comparison, const std::string& json_path,
                   const std::string& plot_path) {
  if (comparison.pairs == 0)
    return ReportStartFault(kProgram, Unavailable("the time limit left nothing measured"));
  fmt::print(
      "{} prompts, {} of {} rounds over them measured, {} output tokens at most, one request at a time\n\n",
      options.prompts.size(),
      fmt::format("{:.1f}",
                  static_cast<double>(comparison.pairs) / static_cast<double>(options.prompts.size())),
      options.rounds, options.max_tokens);
  fmt::print("{}\n", FormatTable(comparison));
  std::vector<Bar> bars;
  for (const PolicySummary& summary : comparison.policies) {
    bars.push_back({summary.policy, summary.tokens_per_second, summary.low, summary.high,
                    fmt::format("{:.2f}x", summary.speed_up)});
  }
  fmt::print("{}\n", TextBars(bars, "tokens/s"));
  fmt::print(
      "tokens/s: median of the runs, prefill left out. speed-up: over {}, median of the pairs.\n"
      "tau: tokens of a step with drafts. V: step time over off's. hand-over: share of the time outside\n"
      "the model's and the drafter's computing. off runs without a drafter process.\n",
      options.policies.front());
  const bool coupled = std::ranges::none_of(options.settings, [](const std::string& setting) {
    return setting == "verifier.acceptance=rejection";
  });
  fmt::print("{} of {} texts are the same under all policies.\n",
             comparison.pairs - comparison.different_texts, comparison.pairs);
  if (!json_path.empty()) {
    nlohmann::json json = ToJson(comparison);
    json["prompts"] = options.prompts.size();
    json["max_tokens"] = options.max_tokens;
    json["temperature"] = options.temperature;
    json["seed"] = options.seed;
    json["model"] = options.model;
    json["drafter"] = options.drafter;
    json["settings"] = options.settings;
    if (const auto status = WriteFile(json_path, json.dump(2) + "\n"); !status.ok())
      return ReportStartFault(kProgram, status);
  }
  if (!plot_path.empty()) {
    const std::string title = "Tokens/s by window policy: " + Join({options.model, "+", options.drafter});
    if (const auto status = WriteFile(plot_path, SvgBars(title, "tokens/s", bars)); !status.ok())
      return ReportStartFault(kProgram, status);
  }
  return coupled && comparison.different_texts > 0 ? 1 : 0;
}

// The verifier's, of its --threads among the settings.
int VerifierThreads(const std::vector<std::string>& settings) {
  verifier::VerifierOptions options;
  for (const std::string& setting : settings) {
    const auto flag = ParseProcessFlag(setting);
    if (!flag.ok() || flag->process != "verifier" || flag->flag != "threads") continue;
    if (const auto threads = ParseInteger(flag->value); threads.ok())
      options.threads = static_cast<int>(*threads);
  }
  return verifier::NumThreads(options);
}

int ShowProfile(ProfileOptions options, const std::string& json_path) {
  options.threads = VerifierThreads(options.settings);
  const auto profile = MeasureProfile(options);
  if (!profile.ok()) return ReportStartFault(kProgram, profile.status());
  fmt::print("{}", FormatTable(*profile));
  if (json_path.empty()) return 0;
  const auto status = WriteFile(json_path, ToJson(*profile).dump(2) + "\n");
  return status.ok() ? 0 : ReportStartFault(kProgram, status);
}

}  // namespace

int BenchMain(int argc, const char* const* argv) {
  LoadOptions load;
  CompareOptions compare;
  std::string http, model, drafter = "auto", prompts, json_path, plot_path, policies;
  std::vector<std::string> settings;
  int64_t seed = 1;
  int warmup = 2, sample = 16;
  bool profile = false;
  OptionParser parser(
      kProgram,
      "Measures a running gateway, or one started for the time being: latency percentiles and "
      "throughput, closed loop (--concurrency) or open loop (--rate). With --compare it starts a "
      "stack for each window policy and measures them in turns; with --profile it shows where a round's time "
      "goes.");
  parser.AddString("http", &http, "the gateway's HOST:PORT; default: 127.0.0.1:8000 if one is ready there");
  parser.AddString("model", &model, "start an engine with this model (file, directory or name) instead");
  parser.AddString("drafter", &drafter, std::string("of an engine started here: ") + kDrafterHelp);
  parser.AddStringList("set", &settings, "PROCESS.FLAG=VALUE for an engine started here, as in tandem up");
  parser.AddString("compare", &policies,
                   "window policies to compare, the first as the base: off,fixed:7,prefix");
  parser.AddInteger("rounds", &compare.rounds, 1, 1000, "--compare: times that all prompts are measured");
  parser.AddDuration("time-limit", &compare.time_limit, absl::Seconds(1), absl::Hours(24),
                     "--compare: no run begins later");
  parser.AddString("plot", &plot_path, "--compare: also draw the figures as SVG into this file");
  parser.AddFlag("profile", &profile,
                 "start a stack and print the time of a round by stage, one request at a time, beside the "
                 "machine's limits");
  parser.AddInteger("concurrency", &load.concurrency, 1, 1024, "closed loop: requests in flight");
  parser.AddNumber("rate", &load.rate, 0, 1e6, "open loop: Poisson arrivals per second; 0: closed loop");
  parser.AddInteger("requests", &load.num_requests, 1, 1'000'000, "requests in all");
  parser.AddInteger("warmup", &warmup, 0, 1000, "requests before those, not counted");
  parser.AddInteger("max-tokens", &load.max_tokens, 1, INT32_MAX, "output tokens per request at most");
  parser.AddNumber("temperature", &load.temperature, 0, 2, "0: greedy");
  parser.AddInteger("seed", &seed, 0, INT64_MAX, "of arrivals, requests and the sample");
  parser.AddString("prompts", &prompts, "JSONL file of {\"turns\": [\"...\"]}; the first turn is sent");
  parser.AddInteger("sample", &sample, 1, 1'000'000, "--compare, --profile: prompts drawn from the file");
  parser.AddString("json", &json_path, "also write the figures to this file");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  load.seed = static_cast<uint64_t>(seed);
  const auto bad_usage = [](const absl::Status& status) {
    std::cerr << kProgram << ": " << status.message() << std::endl;
    return 2;
  };
  if (!policies.empty()) {
    auto parsed = ParsePolicies(policies);
    if (!parsed.ok()) return bad_usage(Annotate(parsed.status(), "--compare"));
    compare.policies = *std::move(parsed);
    if (!http.empty()) return bad_usage(InvalidArgument("--compare starts its own engines: no --http"));
  }
  if (profile && (!http.empty() || !policies.empty()))
    return bad_usage(InvalidArgument("--profile starts a stack of its own: no --http, no --compare"));
  for (const std::string& setting : settings) {
    if (const auto flag = ParseProcessFlag(setting); !flag.ok()) return bad_usage(flag.status());
  }

  load.prompts = BuiltInPrompts();
  if (!prompts.empty()) {
    auto read = ReadPrompts(prompts);
    if (!read.ok()) return ReportStartFault(kProgram, read.status());
    load.prompts = *std::move(read);
  }
  if (parser.check_config()) return 0;

  signal(SIGPIPE, SIG_IGN);
  if (!policies.empty()) {
    compare.model = model.empty() ? kDefaultModel : model;
    compare.drafter = drafter;
    compare.settings = settings;
    compare.max_tokens = load.max_tokens;
    compare.temperature = load.temperature;
    compare.seed = load.seed;
    const size_t available = load.prompts.size();
    for (const auto& turns : SamplePrompts(load.prompts, static_cast<size_t>(sample), load.seed))
      compare.prompts.push_back(turns.front());
    std::cerr << "measuring " << compare.prompts.size() << " of " << available << " prompts of "
              << (prompts.empty() ? "the built-in set" : prompts) << " in " << compare.rounds << " rounds"
              << std::endl;
    const auto comparison = ComparePolicies(compare);
    if (!comparison.ok()) return ReportStartFault(kProgram, comparison.status());
    return ShowComparison(compare, *comparison, json_path, plot_path);
  }
  if (profile) {
    ProfileOptions options;
    options.model = model.empty() ? kDefaultModel : model;
    options.drafter = drafter;
    options.settings = settings;
    options.max_tokens = load.max_tokens;
    options.temperature = load.temperature;
    options.seed = load.seed;
    for (const auto& turns : SamplePrompts(load.prompts, static_cast<size_t>(sample), load.seed))
      options.prompts.push_back(turns.front());
    return ShowProfile(options, json_path);
  }
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
    if (const auto status = WriteFile(json_path, summary.dump(2) + "\n"); !status.ok())
      return ReportStartFault(kProgram, status);
  }
  return summary["failed"].get<int>() == 0 ? 0 : 1;
}

}  // namespace tandem::cli
