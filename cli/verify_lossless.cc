#include "cli/verify_lossless.h"

#include <fmt/format.h>
#include <signal.h>

#include <iostream>
#include <string>
#include <vector>

#include "cli/law_check.h"
#include "cli/load_generator.h"
#include "cli/lossless_check.h"
#include "cli/stack_options.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::cli {
namespace {

constexpr char kProgram[] = "tandem verify-lossless";

// Prints what is missing; whether it is true.
bool Shown(bool shown, const std::string& what) {
  if (!shown) fmt::print("NOT SHOWN: {}\n", what);
  return shown;
}

int ShowVerdicts(const LosslessOptions& options, const std::vector<PolicyVerdict>& verdicts) {
  fmt::print("{:<16}{:>10}{:>10}{:>10}{:>11}{:>10}{:>10}{:>26}\n", "policy", "alone", "batched", "faults",
             "checked", "accepted", "rejected", "streams at a kill (d, v)");
  bool equal = true;
  int64_t accepted = 0, rejected = 0;
  int without_drafter = 0, without_verifier = 0, drafter_kills = 0, verifier_kills = 0, texts = 0;
  for (const PolicyVerdict& verdict : verdicts) {
    fmt::print("{:<16}", verdict.policy);
    for (const LosslessPass& pass : verdict.passes) {
      fmt::print("{:>10}", fmt::format("{}/{}", pass.equal, pass.texts));
      texts += pass.texts;
    }
    fmt::print("{:>11}{:>10}{:>10}{:>26}\n", verdict.checked(), verdict.accepted(),
               verdict.checked() - verdict.accepted(),
               fmt::format("{}, {}", verdict.streams_without_drafter, verdict.streams_without_verifier));
    equal = equal && verdict.equal();
    accepted += verdict.accepted();
    rejected += verdict.checked() - verdict.accepted();
    without_drafter += verdict.streams_without_drafter;
    without_verifier += verdict.streams_without_verifier;
    drafter_kills += verdict.drafter_kills;
    verifier_kills += verdict.verifier_kills;
  }
  fmt::print("\n");
  for (const PolicyVerdict& verdict : verdicts) {
    if (!verdict.first_difference.empty())
      fmt::print("DIFFERENT under {}: {}\n", verdict.policy, verdict.first_difference);
  }
  bool shown = equal;
  shown &= Shown(accepted > 0, "no draft was accepted");
  shown &= Shown(rejected > 0, "no draft was rejected");
  shown &= Shown(without_drafter > 0, "no stream was running when the drafter was killed");
  shown &= Shown(without_verifier > 0, "no stream was running when the verifier was killed");
  if (!shown) return 1;
  fmt::print(
      "Shown: {} texts of {} tokens, equal byte for byte to those without a drafter; {} drafts accepted, {} "
      "rejected;\nthe drafter killed {} times under {} running streams, the verifier {} times under {}.\n",
      texts, options.max_tokens, accepted, rejected, drafter_kills, without_drafter, verifier_kills,
      without_verifier);
  return 0;
}

int ShowLaw(const LawOptions& options, const LawVerdict& verdict) {
  fmt::print("{:<8}{:>8}{:>6}{:>12}{:>10}{:>22}\n", "prompt", "cells", "df", "chi-square", "p",
             "found with 90 % from");
  for (size_t i = 0; i < verdict.prompts.size(); ++i) {
    const Homogeneity& test = verdict.prompts[i];
    fmt::print("{:<8}{:>8}{:>6}{:>12.1f}{:>10.4f}{:>22}\n", i + 1, test.cells, test.df, test.statistic,
               test.p_value, fmt::format("TV {:.3f}", test.detectable_distance));
  }
  fmt::print(
      "\nFirst {} tokens of {} texts a prompt and side, temperature {}; cells expected less than 5 times "
      "are one.\nLevel {:g} over all prompts ({:g} each): so often a right rule would fail. A total "
      "variation of TV or more\nover the cells would be found 9 times in 10.\n"
      "Rejection mode trusts the drafter's probabilities: one that misstates them changes the law. Coupled\n"
      "mode, the default, does not depend on them.\n\n",
      kLawTokens, options.samples, options.temperature, options.level, verdict.level);
  bool shown = true;
  for (size_t i = 0; i < verdict.prompts.size(); ++i) {
    const Homogeneity& test = verdict.prompts[i];
    shown &= Shown(test.df > 0, fmt::format("prompt {}: all texts begin alike", i + 1));
    if (test.df > 0 && test.p_value < verdict.level) {
      fmt::print("DIFFERENT: prompt {}\n", i + 1);
      shown = false;
    }
  }
  shown &= Shown(verdict.accepted > 0, "no draft was accepted");
  shown &= Shown(verdict.checked > verdict.accepted, "no draft was rejected");
  if (!shown) return 1;
  fmt::print("Shown: no difference found; {} drafts accepted, {} rejected.\n", verdict.accepted,
             verdict.checked - verdict.accepted);
  return 0;
}

}  // namespace

int VerifyLosslessMain(int argc, const char* const* argv) {
  LosslessOptions lossless;
  LawOptions law;
  std::string model = kDefaultModel, drafter = "auto", acceptance = "coupled", prompts;
  std::vector<std::string> policies = {"off", "fixed:1", "fixed:3", "fixed:7", "threshold:0.5", "prefix"};
  std::vector<std::string> settings;
  int64_t seed = 1;
  int sample = 4;
  OptionParser parser(
      kProgram,
      "Shows on this machine that speculation does not change the text. Coupled acceptance: texts are equal "
      "byte for byte over all policies, alone and batched, also while drafter and verifier are killed with "
      "SIGKILL and restart. Rejection: a statistical test of the texts' first tokens. Exit code 0 if shown, "
      "1 if not.");
  parser.AddString("model", &model, "a model file or directory, or a name that is pulled if missing");
  parser.AddString("drafter", &drafter, kDrafterHelp);
  parser.AddChoice("acceptance", &acceptance, {"coupled", "rejection"}, "the rule to verify");
  parser.AddStringList("policy", &policies,
                       "window policies; repeat for several (rejection: fixed:3, one only)");
  parser.AddString("prompts", &prompts, "JSONL file of {\"turns\": [\"...\"]}; the first turn is sent");
  parser.AddInteger("sample", &sample, 1, 64, "prompts drawn from the file");
  parser.AddInteger("seed", &seed, 0, INT32_MAX, "of the sample and of all requests");
  parser.AddInteger("max-tokens", &lossless.max_tokens, 8, 4096, "coupled: tokens of each text");
  parser.AddInteger("samples", &law.samples, 100, 1'000'000, "rejection: texts of each prompt and side");
  parser.AddStringList("set", &settings, "PROCESS.FLAG=VALUE: a flag for drafter, verifier or gateway");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  const bool rejection = acceptance == "rejection";
  if (rejection && !parser.IsSet("policy")) policies = {"fixed:3"};
  const auto bad_usage = [](const absl::Status& status) {
    std::cerr << kProgram << ": " << status.message() << std::endl;
    return 2;
  };
  for (const std::string& policy : policies) {
    if (const auto parsed = verifier::ParseWindowPolicy(policy); !parsed.ok())
      return bad_usage(Annotate(parsed.status(), "--policy"));
  }
  if (rejection && policies.size() > 1) return bad_usage(InvalidArgument("--policy: rejection takes one"));
  for (const std::string& setting : settings) {
    if (const auto flag = ParseProcessFlag(setting); !flag.ok()) return bad_usage(flag.status());
  }
  auto all = BuiltInPrompts();
  if (!prompts.empty()) {
    auto read = ReadPrompts(prompts);
    if (!read.ok()) return ReportStartFault(kProgram, read.status());
    all = *std::move(read);
  }
  if (parser.check_config()) return 0;
  std::vector<std::string> chosen;
  for (const auto& turns :
       SamplePrompts(std::move(all), static_cast<size_t>(sample), static_cast<uint64_t>(seed)))
    chosen.push_back(turns.front());

  signal(SIGPIPE, SIG_IGN);
  if (rejection) {
    law.model = model;
    law.drafter = drafter;
    law.settings = settings;
    law.policy = policies.front();
    law.prompts = chosen;
    law.seed = static_cast<uint64_t>(seed);
    const auto verdict = CheckLaw(law);
    return verdict.ok() ? ShowLaw(law, *verdict) : ReportStartFault(kProgram, verdict.status());
  }
  lossless.model = model;
  lossless.drafter = drafter;
  lossless.settings = settings;
  lossless.policies = policies;
  lossless.prompts = chosen;
  lossless.seed = static_cast<uint64_t>(seed);
  const auto verdicts = CheckLossless(lossless);
  return verdicts.ok() ? ShowVerdicts(lossless, *verdicts) : ReportStartFault(kProgram, verdicts.status());
}

}  // namespace tandem::cli
