// Keeps a drafter, a verifier and a gateway running as children of this process.
//
// Not thread-safe; the thread that calls it must live as long as the children (the kernel signals them when
// it ends).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/child_process.h"
#include "common/base/option_values.h"

namespace tandem::cli {

// One more flag for one process, from --set PROCESS.FLAG=VALUE.
struct ProcessFlag {
  std::string process, flag, value;
};

// kInvalidArgument unless it is PROCESS.FLAG=VALUE with a process that `up` starts.
absl::StatusOr<ProcessFlag> ParseProcessFlag(const std::string& text);

// 0.1 s after the first end, doubling up to 5 s; a child that ran for 10 s starts again at 0.1 s.
absl::Duration RestartDelay(int ends_in_a_row);

class Supervisor {
 public:
  struct Options {
    std::string model;  // a path
    std::string model_name;
    std::string drafter;  // what tandem-drafter takes as --model; empty = none
    Address http{"127.0.0.1", 8000, ""};
    Address grpc{"127.0.0.1", 8001, ""};
    std::vector<ProcessFlag> flags;
    absl::Duration start_timeout = absl::Minutes(5);
  };
  explicit Supervisor(Options options);
  ~Supervisor();

  // Starts the processes and returns once a request would succeed. `wake_fd` (readable = stop) ends the wait
  // with kCancelled. Errors name the process; its own words are on stderr.
  absl::Status Start(int wake_fd);

  // Restarts children that end, with back-off and at the same addresses, until wake_fd is readable.
  void Run(int wake_fd);

  // Drains the gateway, then the verifier, then the drafter, with SIGTERM, and kills what has not ended in
  // `timeout`. Idempotent.
  void Stop(absl::Duration timeout);

  // SIGKILL to a process that runs; Run starts it again. For tests of what survives that.
  void Kill(const std::string& process);
  // Processes that Run has started again.
  int restarts() const { return restarts_; }

  // Valid after Start.
  const Address& http() const { return http_; }
  const Address& grpc() const { return grpc_; }
  // "gateway@HOST:PORT,verifier@HOST:PORT", and ",drafter@HOST:PORT" if there is one
  std::string metrics() const;
  // Of one process ("verifier"); none if there is none of that name.
  std::optional<Address> metrics_of(const std::string& process) const;

 private:
  struct Process;

  // `listen`: key of the "listening" line -> where; `listen_flags`: key -> the flag that says so.
  absl::StatusOr<Process*> Add(const std::string& name, std::vector<std::string> arguments,
                               std::map<std::string, Address> listen,
                               std::map<std::string, std::string> listen_flags);
  absl::Status Launch(Process& process);
  absl::Status WaitUntilReady(int wake_fd);

  Options options_;
  Address http_, grpc_;
  std::vector<std::unique_ptr<Process>> processes_;
  int restarts_ = 0;
};

}  // namespace tandem::cli
