#include "cli/law_check.h"

#include <algorithm>
#include <atomic>
#include <iostream>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "cli/http_client.h"
#include "cli/metrics_page.h"
#include "cli/running_stack.h"
#include "cli/stack_options.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

// Of one request: choice i takes its seed + i.
constexpr int kChoices = 8;
// The prefill's own, a window of three drafts and the token behind it: windows are not cut short where is
// looked at.
constexpr int kMaxTokens = 5;
constexpr int kAtOnce = 4;

using Counts = std::map<std::string, int64_t>;

// Adds each choice's first tokens as an outcome. kInternal if the answer has not that shape.
absl::Status CountOutcomes(const HttpAnswer& answer, Counts& counts) {
  if (answer.status != 200) return Unavailable("{}", ErrorMessage(answer));
  const auto body = nlohmann::json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  const nlohmann::json::json_pointer tokens_of("/logprobs/content");
  const auto malformed = [] { return Internal("the server's answer has no tokens"); };
  if (!body.is_object() || !body.contains("choices") || !body["choices"].is_array()) return malformed();
  for (const nlohmann::json& choice : body["choices"]) {
    if (!choice.contains(tokens_of) || !choice[tokens_of].is_array()) return malformed();
    std::string outcome;
    int taken = 0;
    for (const nlohmann::json& token : choice[tokens_of]) {
      if (taken++ == kLawTokens) break;
      if (!token.is_object() || !token.contains("bytes")) return malformed();
      outcome += token["bytes"].dump();
    }
    ++counts[outcome];
  }
  return absl::OkStatus();
}

absl::StatusOr<Counts> Sample(const Address& http, const LawOptions& options, const std::string& prompt,
                              uint64_t first_seed) {
  const int num_requests = (options.samples + kChoices - 1) / kChoices;
  std::atomic<int> next{0};
  std::vector<Counts> counts(kAtOnce);
  std::vector<absl::Status> statuses(kAtOnce);
  std::vector<std::thread> threads;
  for (size_t worker = 0; worker < kAtOnce; ++worker) {
    threads.emplace_back([&, worker] {
      HttpClient client(http);
      for (int i; statuses[worker].ok() && (i = next.fetch_add(1)) < num_requests;) {
        const nlohmann::json request = {
            {"model", "default"},
            {"messages", {{{"role", "user"}, {"content", prompt}}}},
            {"temperature", options.temperature},
            {"n", kChoices},
            {"max_tokens", kMaxTokens},
            {"logprobs", true},
            {"seed", static_cast<int64_t>(first_seed + static_cast<uint64_t>(i) * kChoices)}};
        const auto answer = client.Post("/v1/chat/completions", request);
        statuses[worker] = answer.ok() ? CountOutcomes(*answer, counts[worker]) : answer.status();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Counts all;
  for (size_t worker = 0; worker < kAtOnce; ++worker) {
    RETURN_IF_ERROR(statuses[worker]);
    for (const auto& [outcome, count] : counts[worker]) all[outcome] += count;
  }
  return all;
}

absl::StatusOr<std::unique_ptr<RunningStack>> StartStack(const LawOptions& options, bool speculates) {
  ASSIGN_OR_RETURN(Supervisor::Options stack,
                   StackOptions(options.model, speculates ? options.drafter : "none", options.settings));
  if (speculates && stack.drafter.empty())
    return InvalidArgument("model {} has no drafter of its own; --drafter names one", options.model);
  stack.http = stack.grpc = Address{"127.0.0.1", 0, ""};
  if (speculates) {
    stack.flags.push_back({"verifier", "policy", options.policy});
    stack.flags.push_back({"verifier", "acceptance", "rejection"});
  }
  return RunningStack::Start(std::move(stack));
}

}  // namespace

bool LawVerdict::equal() const {
  return std::ranges::all_of(prompts,
                             [&](const Homogeneity& test) { return test.df > 0 && test.p_value >= level; });
}

absl::StatusOr<LawVerdict> CheckLaw(const LawOptions& options) {
  LawVerdict verdict;
  verdict.level = options.level / static_cast<double>(options.prompts.size());
  const uint64_t span = static_cast<uint64_t>(options.samples) + kChoices;
  uint64_t seed = options.seed;
  std::vector<std::vector<Counts>> sides;
  for (const bool speculates : {false, true}) {
    ASSIGN_OR_RETURN(const auto stack, StartStack(options, speculates));
    std::cerr << (speculates ? "with speculation, " + options.policy : "without speculation") << ": "
              << options.samples << " texts of each of " << options.prompts.size() << " prompts" << std::endl;
    std::vector<Counts>& side = sides.emplace_back();
    for (const std::string& prompt : options.prompts) {
      ASSIGN_OR_RETURN(side.emplace_back(), Sample(stack->http(), options, prompt, seed));
      seed += span;
    }
    if (!speculates) continue;
    ASSIGN_OR_RETURN(const MetricsPage metrics, MetricsPage::Read(stack->metrics("verifier")));
    verdict.checked = static_cast<int64_t>(metrics.Sum("tandem_spec_draft_tokens_total"));
    verdict.accepted = static_cast<int64_t>(metrics.Sum("tandem_spec_accepted_tokens_total"));
  }
  for (size_t i = 0; i < options.prompts.size(); ++i)
    verdict.prompts.push_back(CompareLaws(sides[0][i], sides[1][i], verdict.level));
  return verdict;
}

}  // namespace tandem::cli
