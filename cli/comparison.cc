#include "cli/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>

#include "cli/load_generator.h"

namespace tandem::cli {
namespace {

double Ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

PolicySummary SumUp(const std::string& policy, const std::vector<const PolicyRun*>& runs,
                    const std::vector<const PolicyRun*>& first) {
  PolicySummary summary;
  summary.policy = policy;
  summary.runs = static_cast<int>(runs.size());
  EngineCounters sum;
  double decode_seconds = 0, tokens = 0;
  std::vector<double> speeds, ratios;
  for (size_t i = 0; i < runs.size(); ++i) {
    sum += runs[i]->engine;
    decode_seconds += runs[i]->decode_seconds;
    tokens += runs[i]->output_tokens - 1;
    speeds.push_back(runs[i]->tokens_per_second());
    if (first[i]->tokens_per_second() > 0) ratios.push_back(speeds.back() / first[i]->tokens_per_second());
  }
  summary.tokens_per_second = Percentile(speeds, 0.5);
  summary.low = Percentile(speeds, 0.1);
  summary.high = Percentile(speeds, 0.9);
  summary.speed_up = Percentile(ratios, 0.5);
  summary.speed_up_low = Percentile(ratios, 0.25);
  summary.speed_up_high = Percentile(ratios, 0.75);
  summary.mean_accepted_length = sum.rounds > 0 ? 1 + sum.accepted / sum.rounds : 0;
  summary.mean_window = Ratio(sum.window_tokens, sum.windows);
  summary.acceptance = Ratio(sum.accepted, sum.checked);
  summary.step_ms = 1e3 * Ratio(sum.target_seconds, sum.decode_steps);
  summary.draft_step_ms = 1e3 * Ratio(sum.drafter_seconds, sum.rounds);
  summary.draft_wait_ms = 1e3 * Ratio(sum.draft_wait_seconds, sum.draft_waits);
  summary.tokens_per_step = Ratio(tokens, sum.decode_steps);
  summary.drafting_ms = 1e3 * Ratio(sum.drafter_seconds, sum.decode_steps);
  const double computing = sum.target_seconds + sum.project_seconds + sum.drafter_seconds;
  summary.hand_over_ms = 1e3 * Ratio(std::max(0.0, decode_seconds - computing), sum.decode_steps);
  summary.hand_over_share = std::max(0.0, 1 - Ratio(computing, decode_seconds));
  return summary;
}

}  // namespace

EngineCounters EngineCounters::operator-(const EngineCounters& other) const {
  EngineCounters result = *this;
  result.decode_steps -= other.decode_steps;
  result.target_seconds -= other.target_seconds;
  result.project_seconds -= other.project_seconds;
  result.drafter_seconds -= other.drafter_seconds;
  result.draft_wait_seconds -= other.draft_wait_seconds;
  result.draft_waits -= other.draft_waits;
  result.rounds -= other.rounds;
  result.checked -= other.checked;
  result.accepted -= other.accepted;
  result.windows -= other.windows;
  result.window_tokens -= other.window_tokens;
  return result;
}

EngineCounters& EngineCounters::operator+=(const EngineCounters& other) {
  return *this = *this - (EngineCounters() - other);
}

Comparison Compare(const std::vector<std::string>& policies, const std::vector<PolicyRun>& runs) {
  std::map<int, std::vector<const PolicyRun*>> pairs;
  for (const PolicyRun& run : runs) {
    auto& pair = pairs.try_emplace(run.pair, policies.size(), nullptr).first->second;
    pair[static_cast<size_t>(run.policy)] = &run;
  }
  std::erase_if(pairs, [](const auto& entry) { return std::ranges::count(entry.second, nullptr) > 0; });
  Comparison comparison;
  comparison.pairs = static_cast<int>(pairs.size());
  for (const auto& [number, pair] : pairs) {
    comparison.different_texts +=
        std::ranges::any_of(pair, [&](const PolicyRun* run) { return run->text != pair.front()->text; });
  }
  double step_ms_off = 0;
  for (size_t p = 0; p < policies.size(); ++p) {
    std::vector<const PolicyRun*> own, first;
    for (const auto& [number, pair] : pairs) {
      own.push_back(pair[p]);
      first.push_back(pair.front());
    }
    comparison.policies.push_back(SumUp(policies[p], own, first));
    if (policies[p] == "off") step_ms_off = comparison.policies.back().step_ms;
  }
  for (PolicySummary& summary : comparison.policies)
    summary.verify_ratio = Ratio(summary.step_ms, step_ms_off);
  return comparison;
}

nlohmann::json ToJson(const Comparison& comparison) {
  nlohmann::json policies = nlohmann::json::array();
  for (const PolicySummary& s : comparison.policies) {
    policies.push_back(
        {{"policy", s.policy},
         {"runs", s.runs},
         {"tokens_per_second", {{"p50", s.tokens_per_second}, {"p10", s.low}, {"p90", s.high}}},
         {"speed_up", {{"p50", s.speed_up}, {"p25", s.speed_up_low}, {"p75", s.speed_up_high}}},
         {"mean_accepted_length", s.mean_accepted_length},
         {"mean_window", s.mean_window},
         {"acceptance", s.acceptance},
         {"step_ms", s.step_ms},
         {"draft_step_ms", s.draft_step_ms},
         {"draft_wait_ms", s.draft_wait_ms},
         {"tokens_per_step", s.tokens_per_step},
         {"drafting_ms", s.drafting_ms},
         {"hand_over_ms", s.hand_over_ms},
         {"verify_ratio", s.verify_ratio},
         {"hand_over_share", s.hand_over_share}});
  }
  return {
      {"pairs", comparison.pairs}, {"different_texts", comparison.different_texts}, {"policies", policies}};
}

std::string FormatTable(const Comparison& comparison) {
  const auto or_dash = [](double value, const char* format) {
    return value > 0 ? fmt::format(fmt::runtime(format), value) : std::string("-");
  };
  std::string out;
  const auto write = std::back_inserter(out);
  fmt::format_to(write, "{:<16}{:>9}{:>16}{:>9}{:>13}{:>7}{:>8}{:>10}{:>7}{:>10}\n", "policy", "tokens/s",
                 "10-90 %", "speed-up", "quartiles", "tau", "window", "accepted", "V", "hand-over");
  for (const PolicySummary& s : comparison.policies) {
    fmt::format_to(write, "{:<16}{:>9.1f}{:>16}{:>8.2f}x{:>13}{:>7}{:>8.2f}{:>10}{:>7}{:>9.1f}%\n", s.policy,
                   s.tokens_per_second, fmt::format("{:.1f}-{:.1f}", s.low, s.high), s.speed_up,
                   fmt::format("{:.2f}-{:.2f}", s.speed_up_low, s.speed_up_high),
                   or_dash(s.mean_accepted_length, "{:.2f}"), s.mean_window,
                   or_dash(100 * s.acceptance, "{:.0f}%"), or_dash(s.verify_ratio, "{:.2f}"),
                   100 * s.hand_over_share);
  }
  return out;
}

}  // namespace tandem::cli
