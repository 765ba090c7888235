#include "cli/running_stack.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/status.h"

namespace tandem::cli {
namespace {

constexpr absl::Duration kStopTimeout = absl::Seconds(10);

}  // namespace

absl::StatusOr<std::unique_ptr<RunningStack>> RunningStack::Start(Supervisor::Options options) {
  std::unique_ptr<RunningStack> stack(new RunningStack);
  stack->wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (stack->wake_fd_ < 0) return Unavailable("eventfd: {}", std::strerror(errno));
  stack->thread_ = std::thread(
      [self = stack.get(), options = std::move(options)]() mutable { self->Run(std::move(options)); });
  std::unique_lock lock(stack->mu_);
  stack->changed_.wait(lock, [&] { return stack->started_; });
  RETURN_IF_ERROR(stack->start_status_);
  return stack;
}

RunningStack::~RunningStack() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
  }
  Wake();
  if (thread_.joinable()) thread_.join();
  if (wake_fd_ >= 0) close(wake_fd_);
}

void RunningStack::Wake() {
  if (wake_fd_ >= 0) eventfd_write(wake_fd_, 1);
}

Address RunningStack::metrics(const std::string& process) const {
  const auto found = metrics_.find(process);
  return found == metrics_.end() ? Address() : found->second;
}

void RunningStack::Kill(const std::string& process) {
  std::unique_lock lock(mu_);
  kill_.push_back(process);
  Wake();
  changed_.wait(lock, [&] { return kill_.empty() || stop_; });
}

int RunningStack::restarts() const {
  const std::lock_guard lock(mu_);
  return restarts_;
}

void RunningStack::Run(Supervisor::Options options) {
  Supervisor supervisor(std::move(options));
  {
    const absl::Status status = supervisor.Start(wake_fd_);
    const std::lock_guard lock(mu_);
    if (status.ok()) {
      http_ = supervisor.http();
      for (const char* process : {"drafter", "verifier", "gateway"}) {
        if (const auto address = supervisor.metrics_of(process)) metrics_[process] = *address;
      }
    }
    start_status_ = status;
    started_ = true;
    changed_.notify_all();
    if (!status.ok()) return;
  }
  while (true) {
    supervisor.Run(wake_fd_);
    eventfd_t count;
    eventfd_read(wake_fd_, &count);
    const std::lock_guard lock(mu_);
    for (const std::string& process : kill_) supervisor.Kill(process);
    kill_.clear();
    restarts_ = supervisor.restarts();
    changed_.notify_all();
    if (stop_) break;
  }
  supervisor.Stop(kStopTimeout);
}

}  // namespace tandem::cli
