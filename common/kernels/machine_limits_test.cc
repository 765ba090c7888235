#include "common/kernels/machine_limits.h"

#include <gtest/gtest.h>

#include <string>

#include "common/kernels/dispatch.h"

namespace tandem::kernels {
namespace {

TEST(MachineLimitsTest, EveryTargetReadsAndMultiplies) {
  ThreadPool pool(2);
  for (const std::string& target : AvailableTargets()) {
    ASSERT_TRUE(SelectTarget(target).ok());
    for (const int64_t bytes : {int64_t{1}, int64_t{3} << 20}) {
      const auto bandwidth = MeasureReadBandwidth(bytes, absl::ZeroDuration(), pool);
      ASSERT_TRUE(bandwidth.ok()) << bandwidth.status();
      EXPECT_GT(*bandwidth, 1e6) << target;
    }
    EXPECT_GT(MeasureFmaRate(absl::ZeroDuration(), pool), 1e6) << target;
  }
  ASSERT_TRUE(SelectTarget(AvailableTargets().front()).ok());
}

TEST(MachineLimitsTest, ABufferThatCannotBeHadIsAnError) {
  ThreadPool pool(1);
  EXPECT_EQ(MeasureReadBandwidth(int64_t{1} << 60, absl::ZeroDuration(), pool).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tandem::kernels
