// A supervised stack beside the caller: processes that end are restarted, and may be killed on purpose.
//
//   ASSIGN_OR_RETURN(auto stack, RunningStack::Start(options));
//   ... requests to stack->http() ...
//   stack->Kill("drafter");        // SIGKILL; it is back a moment later, at the same addresses
//
// The supervisor lives on a thread of its own, since its children end with the thread that starts them.
// Thread-safe.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/supervisor.h"

namespace tandem::cli {

class RunningStack {
 public:
  // Returns once a request would succeed.
  static absl::StatusOr<std::unique_ptr<RunningStack>> Start(Supervisor::Options options);
  // Drains and stops the processes.
  ~RunningStack();

  // Constant after Start.
  const Address& http() const { return http_; }
  // Of "drafter", "verifier", "gateway"; its port is 0 if there is no such process.
  Address metrics(const std::string& process) const;

  // Kills the process without warning; returns when the signal is sent.
  void Kill(const std::string& process);
  // Processes that were started again, so far.
  int restarts() const;

 private:
  RunningStack() = default;
  void Run(Supervisor::Options options);
  void Wake();

  int wake_fd_ = -1;
  Address http_;
  std::map<std::string, Address> metrics_;

  mutable std::mutex mu_;
  std::condition_variable changed_;
  bool started_ = false;  // guarded by mu_, like what follows
  bool stop_ = false;
  absl::Status start_status_;
  std::vector<std::string> kill_;
  int restarts_ = 0;
  std::thread thread_;
};

}  // namespace tandem::cli
