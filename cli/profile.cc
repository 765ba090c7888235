#include "cli/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "cli/chat_session.h"
#include "cli/metrics_page.h"
#include "cli/running_stack.h"
#include "cli/stack_options.h"
#include "common/base/status.h"
#include "common/kernels/machine_limits.h"
#include "common/models/step_profile.h"

namespace tandem::cli {
namespace {

constexpr absl::Duration kMetricsPatience = absl::Seconds(10);
constexpr absl::Duration kPoll = absl::Milliseconds(2);
constexpr absl::Duration kLimitTime = absl::Milliseconds(500);

// Stages in the order in which a round meets them; those of the forward pass are the model's.
constexpr char kPlan[] = "planning", kForwardRest[] = "forward, rest", kSample[] = "sampling",
               kProject[] = "projecting rows for the drafter", kDeliver[] = "delivering",
               kDraft[] = "drafting", kHandOver[] = "hand-over of drafts", kBetween[] = "between steps";

// Counters that only rise, by name.
using Counters = std::map<std::string, double>;

Counters Difference(const Counters& after, const Counters& before) {
  Counters result;
  for (const auto& [name, value] : after) result[name] = value - before.at(name);
  return result;
}

absl::StatusOr<Counters> Read(const RunningStack& stack) {
  ASSIGN_OR_RETURN(const MetricsPage verifier, MetricsPage::Read(stack.metrics("verifier")));
  Counters counters;
  counters["tokens"] = verifier.Sum("tandem_verifier_generated_tokens_total");
  counters["rounds"] = verifier.Sum("tandem_step_sequences_count");
  for (const char* phase : {"plan", "forward", "sample", "project", "deliver"})
    counters[phase] = verifier.Sum("tandem_step_seconds_sum", {{"phase", phase}});
  counters["draft_wait"] = verifier.Sum("tandem_draft_wait_seconds_sum");
  for (const std::string& stage : models::StageNames()) {
    for (const char* what : {"seconds", "bytes", "operations"}) {
      counters[stage + what] =
          verifier.Sum(fmt::format("tandem_step_stage_{}_total", what), {{"stage", stage}});
    }
  }
  counters["drafting"] = 0;
  if (stack.metrics("drafter").port != 0) {
    ASSIGN_OR_RETURN(const MetricsPage drafter, MetricsPage::Read(stack.metrics("drafter")));
    counters["drafting"] = drafter.Sum("tandem_draft_step_seconds_sum");
  }
  return counters;
}

// They rise a moment after a request's last token has been delivered.
absl::StatusOr<Counters> ReadAfter(const RunningStack& stack, double tokens) {
  const absl::Time deadline = absl::Now() + kMetricsPatience;
  while (true) {
    ASSIGN_OR_RETURN(Counters counters, Read(stack));
    if (counters["tokens"] >= tokens) return counters;
    if (absl::Now() > deadline) return absl::DeadlineExceededError("the verifier's metrics lag behind");
    absl::SleepFor(kPoll);
  }
}

class Measurement {
 public:
  Measurement(const ProfileOptions& options, const RunningStack& stack) : options_(options), stack_(stack) {}

  // A request for a single token first, twice: it fills the prefix cache, then shows what of the counters is
  // prefill.
  absl::Status Run(size_t prompt) {
    ASSIGN_OR_RETURN(Counters before, Read(stack_));
    ASSIGN_OR_RETURN(ChatSession::Answer answer, Ask(prompt, 1));
    ASSIGN_OR_RETURN(const Counters warm,
                     ReadAfter(stack_, before["tokens"] + static_cast<double>(answer.output_tokens)));
    ASSIGN_OR_RETURN(answer, Ask(prompt, 1));
    ASSIGN_OR_RETURN(const Counters prefilled,
                     ReadAfter(stack_, warm.at("tokens") + static_cast<double>(answer.output_tokens)));
    const absl::Duration prefill = answer.total;
    ASSIGN_OR_RETURN(answer, Ask(prompt, options_.max_tokens));
    ASSIGN_OR_RETURN(const Counters done,
                     ReadAfter(stack_, prefilled.at("tokens") + static_cast<double>(answer.output_tokens)));
    const Counters more = Difference(Difference(done, prefilled), Difference(prefilled, warm));
    for (const auto& [name, value] : more) sum_[name] += value;
    seconds_ += absl::ToDoubleSeconds(answer.total - prefill);
    return absl::OkStatus();
  }

  Profile SumUp() {
    Profile profile;
    profile.rounds = sum_["rounds"];
    profile.tokens = sum_["tokens"];
    profile.seconds = seconds_;
    std::vector<ProfileStage>& stages = profile.stages;
    stages.push_back({kPlan, sum_["plan"]});
    double in_stages = 0;
    for (const std::string& stage : models::StageNames()) {
      stages.push_back({stage, sum_[stage + "seconds"], sum_[stage + "bytes"], sum_[stage + "operations"]});
      in_stages += stages.back().seconds;
      if (stage != "attention") profile.weight_bytes += stages.back().bytes;
    }
    stages.push_back({kForwardRest, std::max(0.0, sum_["forward"] - in_stages)});
    stages.push_back({kSample, sum_["sample"]});
    stages.push_back({kProject, sum_["project"]});
    stages.push_back({kDeliver, sum_["deliver"]});
    stages.push_back({kDraft, sum_["drafting"]});
    stages.push_back({kHandOver, std::max(0.0, sum_["draft_wait"] - sum_["drafting"])});
    double known = 0;
    for (const ProfileStage& stage : stages) known += stage.seconds;
    stages.push_back({kBetween, std::max(0.0, seconds_ - known)});
    return profile;
  }

 private:
  absl::StatusOr<ChatSession::Answer> Ask(size_t prompt, int64_t max_tokens) const {
    ChatOptions chat;
    chat.temperature = options_.temperature;
    chat.seed = static_cast<int64_t>(options_.seed + prompt);
    chat.max_tokens = max_tokens;
    ChatSession session(stack_.http(), chat);
    return session.Ask(options_.prompts[prompt], [](std::string_view, bool) { return true; });
  }

  const ProfileOptions& options_;
  const RunningStack& stack_;
  Counters sum_;
  double seconds_ = 0;
};

}  // namespace

absl::StatusOr<Profile> MeasureProfile(const ProfileOptions& options) {
  ASSIGN_OR_RETURN(Supervisor::Options stack_options,
                   StackOptions(options.model, options.drafter, options.settings));
  stack_options.http = stack_options.grpc = Address{"127.0.0.1", 0, ""};
  stack_options.flags.push_back({"verifier", "profile", "true"});
  Profile profile;
  {
    ASSIGN_OR_RETURN(const std::unique_ptr<RunningStack> stack,
                     RunningStack::Start(std::move(stack_options)));
    Measurement measurement(options, *stack);
    for (size_t prompt = 0; prompt < options.prompts.size(); ++prompt)
      RETURN_IF_ERROR(measurement.Run(prompt));
    profile = measurement.SumUp();
  }
  if (profile.rounds <= 0)
    return Unavailable("no round was measured: answers of more than one token are needed");
  ThreadPool pool(options.threads);
  const auto weight_bytes = static_cast<int64_t>(profile.weight_bytes / profile.rounds);
  ASSIGN_OR_RETURN(profile.read_bytes_per_second,
                   kernels::MeasureReadBandwidth(weight_bytes, kLimitTime, pool));
  profile.operations_per_second = kernels::MeasureFmaRate(kLimitTime, pool);
  return profile;
}

std::string FormatTable(const Profile& profile) {
  std::string out;
  const auto write = std::back_inserter(out);
  const double rounds = profile.rounds;
  fmt::format_to(write, "{:.0f} rounds, {:.0f} tokens ({:.2f} a round), {:.3f} ms a round, {:.1f} tokens/s\n",
                 rounds, profile.tokens, profile.tokens / rounds, 1e3 * profile.seconds / rounds,
                 profile.tokens / profile.seconds);
  fmt::format_to(write, "limits here: {:.1f} GB/s read from a buffer of {:.0f} MB, {:.0f} GFLOP/s of f32\n\n",
                 1e-9 * profile.read_bytes_per_second, 1e-6 * profile.weight_bytes / rounds,
                 1e-9 * profile.operations_per_second);
  fmt::format_to(write, "{:<28}{:>10}{:>8}{:>12}{:>8}{:>11}{:>10}{:>12}\n", "stage", "us/round", "share",
                 "MB/round", "GB/s", "of limit", "GFLOP/s", "of limit");
  for (const ProfileStage& stage : profile.stages) {
    fmt::format_to(write, "{:<28}{:>10.1f}{:>7.1f}%", stage.name, 1e6 * stage.seconds / rounds,
                   100 * stage.seconds / profile.seconds);
    if (stage.bytes > 0 && stage.seconds > 0) {
      const double bandwidth = stage.bytes / stage.seconds, rate = stage.operations / stage.seconds;
      fmt::format_to(write, "{:>12.3f}{:>8.1f}{:>10.0f}%{:>10.1f}{:>11.1f}%", 1e-6 * stage.bytes / rounds,
                     1e-9 * bandwidth, 100 * bandwidth / profile.read_bytes_per_second, 1e-9 * rate,
                     100 * rate / profile.operations_per_second);
    }
    out += '\n';
  }
  return out;
}

nlohmann::json ToJson(const Profile& profile) {
  nlohmann::json stages = nlohmann::json::array();
  for (const ProfileStage& stage : profile.stages) {
    stages.push_back({{"stage", stage.name},
                      {"seconds", stage.seconds},
                      {"bytes", stage.bytes},
                      {"operations", stage.operations}});
  }
  return {{"rounds", profile.rounds},
          {"tokens", profile.tokens},
          {"seconds", profile.seconds},
          {"read_bytes_per_second", profile.read_bytes_per_second},
          {"f32_operations_per_second", profile.operations_per_second},
          {"stages", stages}};
}

}  // namespace tandem::cli
