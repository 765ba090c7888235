// Programs that the command starts: run to the end, or kept as a child whose first line of output is awaited.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tandem::cli {

// Runs a program found on PATH with our stdin closed and its stdout on our stderr (the caller's stdout is for
// results). The exit code; 128 + signal if one ended it. kNotFound if there is no such program.
absl::StatusOr<int> RunToEnd(const std::vector<std::string>& command);

// The folder of the running executable: where the other programs lie.
absl::StatusOr<std::string> ProgramDirectory();

// A child in a process group of its own (a Ctrl-C in the terminal reaches us alone), with stderr shared and
// stdout piped. The kernel sends it SIGTERM should our process end without notice; for that the thread that
// starts children must live as long as the process. Not thread-safe. Destroying it kills (SIGKILL) and reaps
// a child that still runs.
class ChildProcess {
 public:
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& command);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  int stdout_fd() const { return stdout_fd_; }
  // Readable (poll) once the child has ended.
  int pid_fd() const { return pid_fd_; }

  // The next line of its output without the newline. kDeadlineExceeded after `timeout`, kUnavailable if it
  // ended first (its exit code is then in exit_code()).
  absl::StatusOr<std::string> ReadLine(absl::Duration timeout);

  void Signal(int signal) const;
  // Waits at most `timeout`; the exit code (128 + signal if one ended it), none if it still runs.
  std::optional<int> Wait(absl::Duration timeout);
  // Set once Wait has seen the end.
  std::optional<int> exit_code() const { return exit_code_; }

 private:
  ChildProcess() = default;

  pid_t pid_ = -1;
  int pid_fd_ = -1;
  int stdout_fd_ = -1;
  std::string buffer_;
  std::optional<int> exit_code_;
};

}  // namespace tandem::cli
