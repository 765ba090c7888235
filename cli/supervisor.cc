#include "cli/supervisor.h"

#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <iostream>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "cli/http_client.h"
#include "cli/ports.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

constexpr absl::Duration kStableAfter = absl::Seconds(10);
constexpr absl::Duration kListeningTimeout = absl::Seconds(30);

// The usual port if it is free, else any.
Address Preferred(uint16_t port) {
  const Address address{"127.0.0.1", port, ""};
  return IsPortFree(address) ? address : Address{"127.0.0.1", 0, ""};
}

// "listening http=A grpc=B metrics=C" -> {http: A, ...}
absl::StatusOr<std::map<std::string, Address>> ParseListening(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
  if (words.empty() || words[0] != "listening")
    return FailedPrecondition("expected 'listening ...', got: {}", line);
  std::map<std::string, Address> addresses;
  for (size_t i = 1; i < words.size(); ++i) {
    const std::pair<std::string, std::string> pair = absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    ASSIGN_OR_RETURN(addresses[pair.first], ParseAddress(pair.second));
  }
  return addresses;
}

bool IsReadable(int fd, absl::Duration wait) {
  pollfd poll_fd{fd, POLLIN, 0};
  return poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(wait))) > 0;
}

}  // namespace

absl::StatusOr<ProcessFlag> ParseProcessFlag(const std::string& text) {
  const size_t dot = text.find('.'), equals = text.find('=');
  if (dot == std::string::npos || equals == std::string::npos || dot == 0 || equals < dot + 2) {
    return InvalidArgument("--set must be PROCESS.FLAG=VALUE, got {}", text);
  }
  ProcessFlag flag{text.substr(0, dot), text.substr(dot + 1, equals - dot - 1), text.substr(equals + 1)};
  if (flag.process != "drafter" && flag.process != "verifier" && flag.process != "gateway") {
    return InvalidArgument("--set: process must be drafter, verifier or gateway, got {}", flag.process);
  }
  return flag;
}

absl::Duration RestartDelay(int ends_in_a_row) {
  return std::min(absl::Milliseconds(100) * (1 << std::clamp(ends_in_a_row - 1, 0, 6)), absl::Seconds(5));
}

struct Supervisor::Process {
  std::string name;
  // The command without addresses, and the flag of each address.
  std::vector<std::string> command;
  std::map<std::string, Address> listen;  // key of the "listening" line -> where; port 0 until first started
  std::map<std::string, std::string> listen_flags;

  std::optional<ChildProcess> child;
  absl::Time started;
  absl::Time restart_at = absl::InfiniteFuture();
  int ends_in_a_row = 0;
};

Supervisor::Supervisor(Options options) : options_(std::move(options)) {}
Supervisor::~Supervisor() { Stop(absl::ZeroDuration()); }

absl::Status Supervisor::Launch(Process& process) {
  std::vector<std::string> command = process.command;
  for (const auto& [key, address] : process.listen) {
    command.push_back("--" + process.listen_flags.at(key));
    command.push_back(address.ToString());
  }
  for (const ProcessFlag& flag : options_.flags) {
    if (flag.process == process.name) command.push_back("--" + flag.flag + "=" + flag.value);
  }
  ASSIGN_OR_RETURN(ChildProcess child, ChildProcess::Start(command));
  process.started = absl::Now();
  process.child = std::move(child);
  const absl::StatusOr<std::string> line = process.child->ReadLine(kListeningTimeout);
  if (!line.ok()) return Annotate(line.status(), process.name);
  ASSIGN_OR_RETURN(auto addresses, ParseListening(*line));
  for (auto& [key, address] : process.listen) {
    const auto found = addresses.find(key);
    if (found == addresses.end())
      return FailedPrecondition("{} does not say where {} is: {}", process.name, key, *line);
    address = found->second;  // kept for restarts
  }
  return absl::OkStatus();
}

absl::StatusOr<Supervisor::Process*> Supervisor::Add(const std::string& name,
                                                     std::vector<std::string> arguments,
                                                     std::map<std::string, Address> listen,
                                                     std::map<std::string, std::string> listen_flags) {
  ASSIGN_OR_RETURN(const std::string bin, ProgramDirectory());
  auto process = std::make_unique<Process>();
  process->name = name;
  process->command = {bin + "/tandem-" + name};
  process->command.insert(process->command.end(), arguments.begin(), arguments.end());
  process->listen = std::move(listen);
  process->listen_flags = std::move(listen_flags);
  processes_.push_back(std::move(process));
  RETURN_IF_ERROR(Launch(*processes_.back()));
  return processes_.back().get();
}

absl::Status Supervisor::Start(int wake_fd) {
  std::vector<std::string> verifier_arguments = {"--model", options_.model};
  if (!options_.drafter.empty()) {
    ASSIGN_OR_RETURN(Process* const drafter,
                     Add("drafter", {"--model", options_.drafter, "--target", options_.model},
                         {{"grpc", Preferred(8021)}, {"metrics", Preferred(8022)}},
                         {{"grpc", "listen"}, {"metrics", "metrics"}}));
    verifier_arguments.insert(verifier_arguments.end(), {"--drafter", drafter->listen.at("grpc").ToString()});
  }
  ASSIGN_OR_RETURN(Process* const verifier, Add("verifier", std::move(verifier_arguments),
                                                {{"grpc", Preferred(8011)}, {"metrics", Preferred(8012)}},
                                                {{"grpc", "listen"}, {"metrics", "metrics"}}));
  ASSIGN_OR_RETURN(Process* const gateway,
                   Add("gateway",
                       {"--verifier", verifier->listen.at("grpc").ToString(), "--model", options_.model,
                        "--served-model-name", options_.model_name},
                       {{"http", options_.http}, {"grpc", options_.grpc}, {"metrics", Preferred(8002)}},
                       {{"http", "http"}, {"grpc", "grpc"}, {"metrics", "metrics"}}));
  http_ = gateway->listen.at("http");
  grpc_ = gateway->listen.at("grpc");
  return WaitUntilReady(wake_fd);
}

absl::Status Supervisor::WaitUntilReady(int wake_fd) {
  const absl::Time deadline = absl::Now() + options_.start_timeout;
  HttpClient client(http_, absl::Seconds(5));
  while (absl::Now() < deadline) {
    for (const auto& process : processes_) {
      if (const std::optional<int> code = process->child->Wait(absl::ZeroDuration())) {
        return Unavailable("{} ended while starting (exit code {})", process->name, *code);
      }
    }
    const absl::StatusOr<HttpAnswer> answer = client.Get("/ready");
    if (answer.ok() && answer->status == 200) return absl::OkStatus();
    if (IsReadable(wake_fd, absl::Milliseconds(50))) return absl::CancelledError("stopped while starting");
  }
  return absl::DeadlineExceededError(
      fmt::format("not ready after {} s", absl::ToInt64Seconds(options_.start_timeout)));
}

void Supervisor::Run(int wake_fd) {
  while (true) {
    std::vector<pollfd> fds = {{wake_fd, POLLIN, 0}};
    absl::Time next = absl::InfiniteFuture();
    for (const auto& process : processes_) {
      if (process->child) {
        fds.push_back({process->child->pid_fd(), POLLIN, 0});
      } else {
        next = std::min(next, process->restart_at);
      }
    }
    const absl::Duration wait = std::max(next - absl::Now(), absl::ZeroDuration());
    poll(fds.data(), fds.size(),
         next == absl::InfiniteFuture() ? -1 : static_cast<int>(absl::ToInt64Milliseconds(wait) + 1));
    if (fds[0].revents != 0) return;
    for (const auto& process : processes_) {
      if (process->child) {
        const std::optional<int> code = process->child->Wait(absl::ZeroDuration());
        if (!code) continue;
        process->ends_in_a_row =
            absl::Now() - process->started >= kStableAfter ? 1 : process->ends_in_a_row + 1;
        const absl::Duration delay = RestartDelay(process->ends_in_a_row);
        std::cerr << "tandem up: " << process->name << " ended (exit code " << *code << "), restarting in "
                  << absl::FormatDuration(delay) << std::endl;
        process->child.reset();
        process->restart_at = absl::Now() + delay;
      } else if (absl::Now() >= process->restart_at) {
        const absl::Status status = Launch(*process);
        if (status.ok()) {
          ++restarts_;
          std::cerr << "tandem up: " << process->name << " restarted" << std::endl;
        } else {
          ++process->ends_in_a_row;
          const absl::Duration delay = RestartDelay(process->ends_in_a_row);
          std::cerr << "tandem up: restart failed: " << status.message() << ", next try in "
                    << absl::FormatDuration(delay) << std::endl;
          process->child.reset();
          process->restart_at = absl::Now() + delay;
        }
      }
    }
  }
}

void Supervisor::Stop(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  // The gateway first: its running streams still need the verifier, which is faster with its drafter.
  for (auto process = processes_.rbegin(); process != processes_.rend(); ++process) {
    std::optional<ChildProcess>& child = (*process)->child;
    if (!child) continue;
    child->Signal(SIGTERM);
    if (!child->Wait(deadline - absl::Now()) && timeout > absl::ZeroDuration()) {
      std::cerr << "tandem up: " << (*process)->name << " did not stop in time, killed" << std::endl;
    }
    child.reset();
  }
}

void Supervisor::Kill(const std::string& name) {
  for (const auto& process : processes_) {
    if (process->name == name && process->child) process->child->Signal(SIGKILL);
  }
}

std::optional<Address> Supervisor::metrics_of(const std::string& name) const {
  for (const auto& process : processes_) {
    if (process->name == name) return process->listen.at("metrics");
  }
  return std::nullopt;
}

std::string Supervisor::metrics() const {
  std::string text;
  for (auto process = processes_.rbegin(); process != processes_.rend(); ++process) {
    text += (text.empty() ? "" : ",") + (*process)->name + "@" + (*process)->listen.at("metrics").ToString();
  }
  return text;
}

}  // namespace tandem::cli
