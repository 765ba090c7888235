#include "cli/compare_policies.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/chat_session.h"
#include "cli/metrics_page.h"
#include "cli/running_stack.h"
#include "cli/stack_options.h"
#include "common/base/status.h"
#include "verifier/scheduling/window_policy.h"

namespace tandem::cli {
namespace {

constexpr absl::Duration kMetricsPatience = absl::Seconds(10);
constexpr absl::Duration kPoll = absl::Milliseconds(2);

struct Scrape {
  EngineCounters counters;
  double generated_tokens = 0;
};

absl::StatusOr<Scrape> Read(const RunningStack& stack) {
  ASSIGN_OR_RETURN(const MetricsPage verifier, MetricsPage::Read(stack.metrics("verifier")));
  Scrape scrape;
  EngineCounters& counters = scrape.counters;
  scrape.generated_tokens = verifier.Sum("tandem_verifier_generated_tokens_total");
  counters.decode_steps = verifier.Sum("tandem_step_seconds_count", {{"phase", "forward"}});
  counters.target_seconds = verifier.Sum("tandem_step_seconds_sum", {{"phase", "forward"}}) +
                            verifier.Sum("tandem_step_seconds_sum", {{"phase", "sample"}});
  counters.project_seconds = verifier.Sum("tandem_step_seconds_sum", {{"phase", "project"}});
  counters.draft_wait_seconds = verifier.Sum("tandem_draft_wait_seconds_sum");
  counters.draft_waits = verifier.Sum("tandem_draft_wait_seconds_count");
  counters.rounds = verifier.Sum("tandem_spec_drafts_total");
  counters.checked = verifier.Sum("tandem_spec_draft_tokens_total");
  counters.accepted = verifier.Sum("tandem_spec_accepted_tokens_total");
  counters.windows = verifier.Sum("tandem_spec_window_tokens_count");
  counters.window_tokens = verifier.Sum("tandem_spec_window_tokens_sum");
  if (stack.metrics("drafter").port != 0) {
    ASSIGN_OR_RETURN(const MetricsPage drafter, MetricsPage::Read(stack.metrics("drafter")));
    counters.drafter_seconds = drafter.Sum("tandem_draft_step_seconds_sum");
  }
  return scrape;
}

// The counters after a request: they rise a moment after its last token has been delivered.
absl::StatusOr<Scrape> ReadAfter(const RunningStack& stack, double generated_tokens) {
  const absl::Time deadline = absl::Now() + kMetricsPatience;
  while (true) {
    ASSIGN_OR_RETURN(const Scrape scrape, Read(stack));
    if (scrape.generated_tokens >= generated_tokens) return scrape;
    if (absl::Now() > deadline) {
      return absl::DeadlineExceededError(
          fmt::format("the verifier's metrics count {} tokens, {} were delivered", scrape.generated_tokens,
                      generated_tokens));
    }
    absl::SleepFor(kPoll);
  }
}

class Bench {
 public:
  explicit Bench(const CompareOptions& options) : options_(options) {}

  absl::Status Start() {
    for (const std::string& policy : options_.policies) {
      const bool off = policy == "off";
      ASSIGN_OR_RETURN(Supervisor::Options stack,
                       StackOptions(options_.model, off ? "none" : options_.drafter, options_.settings));
      if (!off && stack.drafter.empty())
        return InvalidArgument("model {} has no drafter of its own; --drafter names one", options_.model);
      stack.http = stack.grpc = Address{"127.0.0.1", 0, ""};
      if (!off) stack.flags.push_back({"verifier", "policy", policy});
      ASSIGN_OR_RETURN(stacks_.emplace_back(), RunningStack::Start(std::move(stack)));
    }
    return absl::OkStatus();
  }

  // One prompt under one policy. A request for a single token first, twice: it fills the prefix cache, then
  // shows what of the counters is prefill.
  absl::StatusOr<PolicyRun> Run(int policy, int pair, size_t prompt) {
    const RunningStack& stack = *stacks_[static_cast<size_t>(policy)];
    ASSIGN_OR_RETURN(Scrape before, Read(stack));
    ASSIGN_OR_RETURN(auto answer, Ask(stack, prompt, 1));
    ASSIGN_OR_RETURN(Scrape warm, ReadAfter(stack, before.generated_tokens + answer.output_tokens));
    ASSIGN_OR_RETURN(answer, Ask(stack, prompt, 1));
    ASSIGN_OR_RETURN(Scrape prefilled, ReadAfter(stack, warm.generated_tokens + answer.output_tokens));
    const absl::Duration prefill = answer.total;
    ASSIGN_OR_RETURN(answer, Ask(stack, prompt, options_.max_tokens));
    ASSIGN_OR_RETURN(Scrape done, ReadAfter(stack, prefilled.generated_tokens + answer.output_tokens));
    PolicyRun run;
    run.policy = policy;
    run.pair = pair;
    run.output_tokens = static_cast<int>(answer.output_tokens);
    // Not from the first text on: several tokens may have come with it.
    run.decode_seconds = absl::ToDoubleSeconds(answer.total - prefill);
    run.text = std::move(answer.text);
    run.engine = (done.counters - prefilled.counters) - (prefilled.counters - warm.counters);
    return run;
  }

 private:
  absl::StatusOr<ChatSession::Answer> Ask(const RunningStack& stack, size_t prompt,
                                          int64_t max_tokens) const {
    ChatOptions chat;
    chat.temperature = options_.temperature;
    chat.seed = static_cast<int64_t>(options_.seed + prompt);
    chat.max_tokens = max_tokens;
    ChatSession session(stack.http(), chat);
    return session.Ask(options_.prompts[prompt], [](std::string_view, bool) { return true; });
  }

  const CompareOptions& options_;
  std::vector<std::unique_ptr<RunningStack>> stacks_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> ParsePolicies(const std::string& text) {
  const std::vector<std::string> policies = absl::StrSplit(text, ',');
  for (const std::string& policy : policies) {
    RETURN_IF_ERROR(verifier::ParseWindowPolicy(policy).status());
    if (std::ranges::count(policies, policy) > 1) return InvalidArgument("policy {} is given twice", policy);
  }
  return policies;
}

absl::StatusOr<Comparison> ComparePolicies(const CompareOptions& options) {
  Bench bench(options);
  RETURN_IF_ERROR(bench.Start());
  const int num_policies = static_cast<int>(options.policies.size());
  const absl::Time deadline = absl::Now() + options.time_limit;
  std::vector<PolicyRun> runs;
  int pair = 0;
  for (int round = 0; round < options.rounds && absl::Now() < deadline; ++round) {
    for (size_t prompt = 0; prompt < options.prompts.size() && absl::Now() < deadline; ++prompt, ++pair) {
      for (int turn = 0; turn < num_policies; ++turn) {
        ASSIGN_OR_RETURN(PolicyRun run, bench.Run((turn + pair) % num_policies, pair, prompt));
        runs.push_back(std::move(run));
      }
      std::cerr << '.' << std::flush;
    }
  }
  std::cerr << std::endl;
  return Compare(options.policies, runs);
}

}  // namespace tandem::cli
