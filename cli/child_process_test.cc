#include "cli/child_process.h"

#include <gtest/gtest.h>
#include <signal.h>

namespace tandem::cli {
namespace {

TEST(ChildProcessTest, ReadsLinesAndTheExitCode) {
  auto child = ChildProcess::Start({"sh", "-c", "echo one; echo two; exit 3"});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(*child->ReadLine(absl::Seconds(10)), "one");
  EXPECT_EQ(*child->ReadLine(absl::Seconds(10)), "two");
  EXPECT_EQ(child->ReadLine(absl::Seconds(10)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(child->Wait(absl::Seconds(10)), 3);
}

TEST(ChildProcessTest, WaitEndsAtItsTimeoutAndASignalEndsTheChild) {
  auto child = ChildProcess::Start({"sleep", "1000"});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(child->ReadLine(absl::Milliseconds(10)).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(child->Wait(absl::ZeroDuration()), std::nullopt);
  child->Signal(SIGTERM);
  EXPECT_EQ(child->Wait(absl::Seconds(10)), 128 + SIGTERM);
}

TEST(ChildProcessTest, AMissingProgramIsAnErrorWithItsName) {
  const auto child = ChildProcess::Start({"no-such-program-here"});
  EXPECT_EQ(child.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(child.status().message().find("no-such-program-here"), std::string::npos);
  EXPECT_FALSE(RunToEnd({"no-such-program-here"}).ok());
  EXPECT_EQ(*RunToEnd({"sh", "-c", "exit 7"}), 7);
}

TEST(ChildProcessTest, DestroyingKillsAndReaps) {
  pid_t pid;
  {
    auto child = ChildProcess::Start({"sleep", "1000"});
    ASSERT_TRUE(child.ok()) << child.status();
    pid = child->pid();
  }
  EXPECT_EQ(kill(pid, 0), -1);
}

}  // namespace
}  // namespace tandem::cli
