#include "cli/lossless_check.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <iostream>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "cli/chat_session.h"
#include "cli/running_stack.h"
#include "cli/stack_options.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

// Passes with faults are repeated so often at most, until each kind of kill has met a stream.
constexpr int kMaxFaultPasses = 5;

struct Request {
  std::string prompt;
  double temperature = 0;
  uint64_t seed = 0;
};

// How many streams have sent text and not ended. Thread-safe.
class OpenStreams {
 public:
  void Begin() { Change(1); }
  void End() { Change(-1); }
  void OnText() {
    const std::lock_guard lock(mu_);
    ++texts_;
    changed_.notify_all();
  }
  // Whether text came in on some stream since the call, before all was done.
  bool AwaitText() {
    std::unique_lock lock(mu_);
    const int64_t seen = texts_;
    changed_.wait(lock, [&] { return done_ || (texts_ > seen && open_ > 0); });
    return !done_;
  }
  void SetDone() {
    const std::lock_guard lock(mu_);
    done_ = true;
    changed_.notify_all();
  }
  int open() const {
    const std::lock_guard lock(mu_);
    return open_;
  }

 private:
  void Change(int by) {
    const std::lock_guard lock(mu_);
    open_ += by;
    changed_.notify_all();
  }

  mutable std::mutex mu_;
  std::condition_variable changed_;
  int open_ = 0;
  int64_t texts_ = 0;
  bool done_ = false;
};

class Checker {
 public:
  explicit Checker(const LosslessOptions& options) : options_(options) {
    for (const double temperature : options.temperatures) {
      for (const std::string& prompt : options.prompts)
        requests_.push_back({prompt, temperature, options.seed + requests_.size()});
    }
  }

  absl::StatusOr<std::vector<PolicyVerdict>> Run() {
    std::cerr << "reference: no drafter, " << requests_.size() << " texts" << std::endl;
    ASSIGN_OR_RETURN(stack_, StartStack("off", "none"));
    ASSIGN_OR_RETURN(const std::vector<ChatSession::Answer> reference, AskAll(/*at_once=*/1, nullptr));
    for (const ChatSession::Answer& answer : reference) expected_.push_back(answer.text);
    std::vector<PolicyVerdict> verdicts;
    for (const std::string& policy : options_.policies) {
      std::cerr << policy << ": alone, batched, with faults" << std::endl;
      stack_.reset();
      ASSIGN_OR_RETURN(stack_, StartStack(policy, options_.drafter));
      ASSIGN_OR_RETURN(verdicts.emplace_back(), CheckPolicy(policy));
    }
    return verdicts;
  }

 private:
  absl::StatusOr<std::unique_ptr<RunningStack>> StartStack(const std::string& policy,
                                                           const std::string& drafter) {
    ASSIGN_OR_RETURN(Supervisor::Options options, StackOptions(options_.model, drafter, options_.settings));
    if (drafter != "none" && options.drafter.empty())
      return InvalidArgument("model {} has no drafter of its own; --drafter names one", options_.model);
    options.http = options.grpc = Address{"127.0.0.1", 0, ""};
    options.flags.push_back({"verifier", "policy", policy});
    return RunningStack::Start(std::move(options));
  }

  absl::StatusOr<PolicyVerdict> CheckPolicy(const std::string& policy) {
    PolicyVerdict verdict;
    verdict.policy = policy;
    const int all = static_cast<int>(requests_.size());
    ASSIGN_OR_RETURN(const auto alone, AskAll(1, nullptr));
    Judge("alone", alone, verdict);
    ASSIGN_OR_RETURN(const auto batched, AskAll(all, nullptr));
    Judge("batched", batched, verdict);
    for (int pass = 0; pass < kMaxFaultPasses; ++pass) {
      if (verdict.streams_without_drafter > 0 && verdict.streams_without_verifier > 0) break;
      OpenStreams streams;
      std::thread faults([&] { KillBoth(streams, verdict); });
      const auto answers = AskAll(all, &streams);
      streams.SetDone();
      faults.join();
      RETURN_IF_ERROR(answers.status());
      Judge("faults", *answers, verdict);
    }
    return verdict;
  }

  // Each process once, while text is coming in.
  void KillBoth(OpenStreams& streams, PolicyVerdict& verdict) {
    if (!streams.AwaitText()) return;
    stack_->Kill("drafter");
    verdict.streams_without_drafter += streams.open();
    ++verdict.drafter_kills;
    if (!streams.AwaitText()) return;
    stack_->Kill("verifier");
    verdict.streams_without_verifier += streams.open();
    ++verdict.verifier_kills;
  }

  absl::StatusOr<ChatSession::Answer> Ask(const Request& request, OpenStreams* streams) const {
    ChatOptions chat;
    chat.temperature = request.temperature;
    chat.seed = static_cast<int64_t>(request.seed);
    chat.max_tokens = options_.max_tokens;
    chat.ignore_eos = true;
    ChatSession session(stack_->http(), chat);
    bool begun = false;
    auto answer = session.Ask(request.prompt, [&](std::string_view, bool) {
      if (streams == nullptr) return true;
      if (!std::exchange(begun, true)) streams->Begin();
      streams->OnText();
      return true;
    });
    if (begun) streams->End();
    return answer;
  }

  absl::StatusOr<std::vector<ChatSession::Answer>> AskAll(int at_once, OpenStreams* streams) const {
    std::vector<absl::StatusOr<ChatSession::Answer>> answers(requests_.size());
    std::atomic<size_t> next{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < at_once; ++i) {
      threads.emplace_back([&] {
        for (size_t number; (number = next.fetch_add(1)) < requests_.size();)
          answers[number] = Ask(requests_[number], streams);
      });
    }
    for (std::thread& thread : threads) thread.join();
    std::vector<ChatSession::Answer> result;
    for (size_t i = 0; i < answers.size(); ++i) {
      if (!answers[i].ok()) return Annotate(answers[i].status(), fmt::format("request {}", i));
      result.push_back(*std::move(answers[i]));
    }
    return result;
  }

  void Judge(const std::string& name, const std::vector<ChatSession::Answer>& answers,
             PolicyVerdict& verdict) const {
    if (verdict.passes.empty() || verdict.passes.back().name != name)
      verdict.passes.push_back({.name = name});
    LosslessPass& pass = verdict.passes.back();
    for (size_t i = 0; i < answers.size(); ++i) {
      ++pass.texts;
      pass.checked += answers[i].checked;
      pass.accepted += answers[i].accepted;
      if (answers[i].text == expected_[i]) {
        ++pass.equal;
      } else if (verdict.first_difference.empty()) {
        verdict.first_difference =
            fmt::format("{}, request {} (temperature {}, seed {}): {}", name, i, requests_[i].temperature,
                        requests_[i].seed, DescribeDifference(answers[i].text, expected_[i]));
      }
    }
  }

  const LosslessOptions& options_;
  std::vector<Request> requests_;
  std::vector<std::string> expected_;
  std::unique_ptr<RunningStack> stack_;
};

}  // namespace

bool PolicyVerdict::equal() const {
  return std::ranges::all_of(passes, [](const LosslessPass& pass) { return pass.equal == pass.texts; });
}

int64_t PolicyVerdict::checked() const {
  int64_t sum = 0;
  for (const LosslessPass& pass : passes) sum += pass.checked;
  return sum;
}

int64_t PolicyVerdict::accepted() const {
  int64_t sum = 0;
  for (const LosslessPass& pass : passes) sum += pass.accepted;
  return sum;
}

absl::StatusOr<std::vector<PolicyVerdict>> CheckLossless(const LosslessOptions& options) {
  return Checker(options).Run();
}

std::string DescribeDifference(const std::string& found, const std::string& expected) {
  constexpr size_t kContext = 20;
  size_t at = 0;
  while (at < found.size() && at < expected.size() && found[at] == expected[at]) ++at;
  const size_t begin = at > kContext ? at - kContext : 0;
  const auto around = [&](const std::string& text) {
    return text.substr(begin, at - begin) + "|" + text.substr(at, kContext);
  };
  return fmt::format("byte {}: \"{}\" instead of \"{}\"", at, around(found), around(expected));
}

}  // namespace tandem::cli
