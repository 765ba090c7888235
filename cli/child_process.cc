#include "cli/child_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/base/termination.h"

namespace tandem::cli {
namespace {

constexpr int kMaxLineBytes = 64 << 10;

std::vector<char*> Pointers(const std::vector<std::string>& command) {
  std::vector<char*> pointers;
  for (const std::string& word : command) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

int ExitCode(int wait_status) {
  return WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
}

// Forks and execs; async-signal-safe calls only between the two. `stdout_fd` becomes the child's stdout. A
// pipe closed by exec carries the error of an exec that failed.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command, int stdout_fd, bool own_group) {
  int error_pipe[2];
  if (pipe2(error_pipe, O_CLOEXEC) != 0) return Unavailable("pipe: {}", std::strerror(errno));
  const std::vector<char*> argv = Pointers(command);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    const int error = errno;
    close(error_pipe[0]);
    close(error_pipe[1]);
    return Unavailable("fork: {}", std::strerror(error));
  }
  if (pid == 0) {
    if (own_group) setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);  // the parent ended before the line above
    TerminationWaiter::UnblockSignals();
    signal(SIGPIPE, SIG_DFL);
    const int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd >= 0) dup2(null_fd, STDIN_FILENO);
    dup2(stdout_fd, STDOUT_FILENO);
    execvp(argv[0], argv.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(error_pipe[1], &error, sizeof(error));
    _exit(127);
  }
  close(error_pipe[1]);
  int error = 0;
  ssize_t got;
  do {
    got = read(error_pipe[0], &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  close(error_pipe[0]);
  if (got == sizeof(error)) {
    waitpid(pid, nullptr, 0);
    return NotFound("cannot run {}: {}", command[0], std::strerror(error));
  }
  return pid;
}

void CloseFd(int& fd) {
  if (fd >= 0) close(fd);
  fd = -1;
}

// Milliseconds for poll, rounded up so that a wait never ends early.
int PollTimeout(absl::Duration timeout) {
  if (timeout <= absl::ZeroDuration()) return 0;
  if (timeout > absl::Hours(24)) return -1;
  return static_cast<int>(absl::ToInt64Milliseconds(timeout) + 1);
}

}  // namespace

absl::StatusOr<int> RunToEnd(const std::vector<std::string>& command) {
  ASSIGN_OR_RETURN(const pid_t pid, Spawn(command, STDERR_FILENO, /*own_group=*/false));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return Unavailable("waitpid: {}", std::strerror(errno));
  }
  return ExitCode(status);
}

absl::StatusOr<std::string> ProgramDirectory() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Unavailable("cannot read /proc/self/exe: {}", error.message());
  return self.parent_path().string();
}

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::vector<std::string>& command) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return Unavailable("pipe: {}", std::strerror(errno));
  absl::StatusOr<pid_t> pid = Spawn(command, fds[1], /*own_group=*/true);
  close(fds[1]);
  if (!pid.ok()) {
    close(fds[0]);
    return pid.status();
  }
  ChildProcess child;
  child.pid_ = *pid;
  child.stdout_fd_ = fds[0];
  fcntl(fds[0], F_SETFL, O_NONBLOCK);
  child.pid_fd_ = static_cast<int>(syscall(SYS_pidfd_open, *pid, 0));
  if (child.pid_fd_ < 0)
    return Unavailable("pidfd_open: {}", std::strerror(errno));  // the destructor ends the child
  return child;
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept { *this = std::move(other); }

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pid_fd_, other.pid_fd_);
  std::swap(stdout_fd_, other.stdout_fd_);
  std::swap(buffer_, other.buffer_);
  std::swap(exit_code_, other.exit_code_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (pid_ > 0 && !exit_code_) {
    kill(pid_, SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  CloseFd(pid_fd_);
  CloseFd(stdout_fd_);
}

absl::StatusOr<std::string> ChildProcess::ReadLine(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const size_t newline = buffer_.find('\n');
    if (newline != std::string::npos) {
      std::string line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      return line;
    }
    if (buffer_.size() > kMaxLineBytes)
      return FailedPrecondition("a line of more than {} bytes", kMaxLineBytes);
    pollfd poll_fd{stdout_fd_, POLLIN, 0};
    const int ready = poll(&poll_fd, 1, PollTimeout(deadline - absl::Now()));
    if (ready == 0) return absl::DeadlineExceededError("no line of output in time");
    if (ready < 0) {
      if (errno == EINTR) continue;
      return Unavailable("poll: {}", std::strerror(errno));
    }
    char bytes[4096];
    const ssize_t got = read(stdout_fd_, bytes, sizeof(bytes));
    if (got > 0) {
      buffer_.append(bytes, static_cast<size_t>(got));
    } else if (got == 0) {
      Wait(deadline - absl::Now());
      return Unavailable("it ended before its first line (exit code {})", exit_code_.value_or(-1));
    } else if (errno != EAGAIN && errno != EINTR) {
      return Unavailable("read: {}", std::strerror(errno));
    }
  }
}

void ChildProcess::Signal(int signal) const {
  if (pid_ > 0 && !exit_code_) kill(pid_, signal);
}

std::optional<int> ChildProcess::Wait(absl::Duration timeout) {
  if (exit_code_) return exit_code_;
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    int status = 0;
    const pid_t got = waitpid(pid_, &status, WNOHANG);
    if (got == pid_) {
      exit_code_ = ExitCode(status);
      return exit_code_;
    }
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return std::nullopt;
    pollfd poll_fd{pid_fd_, POLLIN, 0};
    poll(&poll_fd, 1, PollTimeout(left));
  }
}

}  // namespace tandem::cli
