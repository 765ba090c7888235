#include "cli/supervisor.h"

#include <gtest/gtest.h>

namespace tandem::cli {
namespace {

TEST(SupervisorTest, ParsesProcessFlags) {
  const auto flag = ParseProcessFlag("verifier.kv-bytes=64MiB");
  ASSERT_TRUE(flag.ok()) << flag.status();
  EXPECT_EQ(flag->process, "verifier");
  EXPECT_EQ(flag->flag, "kv-bytes");
  EXPECT_EQ(flag->value, "64MiB");
  EXPECT_EQ(ParseProcessFlag("gateway.x=a.b=c")->value, "a.b=c");
  for (const char* bad :
       {"", "verifier", "verifier.=1", ".x=1", "verifier=1.2", "sampler.x=1", "verifier.x"}) {
    EXPECT_EQ(ParseProcessFlag(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(SupervisorTest, RestartDelayDoublesFromATenthToFiveSeconds) {
  EXPECT_EQ(RestartDelay(1), absl::Milliseconds(100));
  EXPECT_EQ(RestartDelay(2), absl::Milliseconds(200));
  EXPECT_EQ(RestartDelay(6), absl::Milliseconds(3200));
  EXPECT_EQ(RestartDelay(7), absl::Seconds(5));
  EXPECT_EQ(RestartDelay(1000), absl::Seconds(5));
}

}  // namespace
}  // namespace tandem::cli
