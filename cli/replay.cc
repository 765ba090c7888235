#include "cli/replay.h"

#include <fmt/format.h>

#include <iostream>
#include <string>
#include <vector>

#include "common/base/options.h"
#include "common/base/status.h"
#include "verifier/scheduling/replay.h"

namespace tandem::cli {
namespace {

using verifier::ReplayTotals;

constexpr char kProgram[] = "tandem replay";

void PrintRow(const std::string& policy, const ReplayTotals& totals, const verifier::ReplayResult& result,
              const ReplayTotals& recorded) {
  const auto anchors = static_cast<double>(result.num_anchors);
  fmt::print("{:<24}{:>10.1f}{:>10.2f}x{:>10.2f}{:>12.2f}\n", policy, totals.tokens_per_second(),
             recorded.tokens_per_second() > 0 ? totals.tokens_per_second() / recorded.tokens_per_second() : 0,
             anchors > 0 ? totals.window_sum / anchors : 0, anchors > 0 ? totals.tokens / anchors : 0);
}

}  // namespace

int ReplayMain(int argc, const char* const* argv) {
  std::string path;
  std::vector<std::string> names = {"prefix"};
  OptionParser parser(
      kProgram,
      "Runs other window policies over a trace that tandem-verifier --trace FILE recorded: what "
      "they would have chosen, and how fast that would have been. An estimate: steps are taken "
      "as they were recorded.");
  parser.AddPositional("FILE", &path, /*required=*/true, "the trace");
  parser.AddStringList("policy", &names, "off, fixed:K, threshold:C or prefix; repeat for several");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  std::vector<verifier::WindowPolicy> policies;
  for (const std::string& name : names) {
    const auto policy = verifier::ParseWindowPolicy(name);
    if (!policy.ok()) {
      std::cerr << kProgram << ": --policy: " << policy.status().message() << std::endl;
      return 2;
    }
    policies.push_back(*policy);
  }
  // The trace may be larger than memory: one pass feeds all policies.
  const auto trace = verifier::TraceReader::Open(path);
  if (!trace.ok()) return ReportStartFault(kProgram, trace.status());
  const verifier::TraceHeader& header = (*trace)->header();
  if (parser.check_config()) return 0;
  std::vector<verifier::Replayer> replayers;
  for (const verifier::WindowPolicy& policy : policies) replayers.emplace_back(header, policy);
  verifier::StepDecision step;
  while (true) {
    const absl::StatusOr<bool> any = (*trace)->Next(step);
    if (!any.ok()) return ReportStartFault(kProgram, any.status());
    if (!*any) break;
    for (verifier::Replayer& replayer : replayers) replayer.Add(step);
  }
  const verifier::ReplayResult& first = replayers.front().result();
  if (first.num_anchors == 0)
    return ReportStartFault(kProgram, InvalidArgument("{}: no decoding step", path));
  fmt::print("{} steps, {} of them sequences' decoding steps, {} acceptance, {}\n\n", first.num_steps,
             first.num_anchors, speculation::AcceptanceModeName(header.acceptance), header.numerics_id);
  fmt::print("{:<24}{:>10}{:>11}{:>10}{:>12}\n", "policy", "tokens/s", "of record", "window", "tokens/step");
  PrintRow("recorded " + verifier::WindowPolicyName(header.policy), first.recorded, first, first.recorded);
  for (size_t i = 0; i < replayers.size(); ++i) {
    const verifier::ReplayResult& result = replayers[i].result();
    PrintRow(verifier::WindowPolicyName(policies[i]), result.replayed, result, result.recorded);
  }
  fmt::print(
      "\ntokens/step: per sequence and step, the model's own token included. Steps are predicted by the step "
      "time\nmodel and scaled by what was recorded; behind the recorded windows the calibrated chances "
      "count.\n");
  return 0;
}

}  // namespace tandem::cli
