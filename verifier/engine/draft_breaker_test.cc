#include "verifier/engine/draft_breaker.h"

#include <gtest/gtest.h>

namespace tandem::verifier {
namespace {

using State = DraftBreaker::State;

constexpr absl::Duration kWaited = absl::Milliseconds(200);

absl::Duration Open(DraftBreaker& breaker, absl::Duration now) {
  for (int i = 0; i < DraftBreaker::kTimeoutsToOpen; ++i) breaker.OnTimeout(now, kWaited);
  return now;
}

TEST(DraftBreakerTest, ThreeTimeoutsInARowOpenItAndAnAnswerBetweenDoesNot) {
  DraftBreaker breaker(1);
  const absl::Duration now = absl::Seconds(5);
  breaker.OnTimeout(now, kWaited);
  breaker.OnTimeout(now, kWaited);
  breaker.OnAnswer();
  breaker.OnTimeout(now, kWaited);
  breaker.OnTimeout(now, kWaited);
  EXPECT_EQ(breaker.state(now), State::kClosed);
  EXPECT_TRUE(breaker.Admit(now));
  breaker.OnTimeout(now, kWaited);
  EXPECT_EQ(breaker.state(now), State::kOpen);
  EXPECT_FALSE(breaker.Admit(now));
}

TEST(DraftBreakerTest, OneProbeGoesOutAfterThePauseAndItsAnswerClosesIt) {
  DraftBreaker breaker(7);
  const absl::Duration opened = Open(breaker, absl::Seconds(5));
  EXPECT_FALSE(breaker.Admit(opened + 0.85 * DraftBreaker::kFirstPause));
  const absl::Duration later = opened + 1.2 * DraftBreaker::kFirstPause;
  EXPECT_EQ(breaker.state(later), State::kHalfOpen);
  EXPECT_TRUE(breaker.Admit(later));
  EXPECT_FALSE(breaker.Admit(later)) << "one probe at a time";
  breaker.OnAnswer();
  EXPECT_EQ(breaker.state(later), State::kClosed);
  EXPECT_TRUE(breaker.Admit(later));
}

TEST(DraftBreakerTest, AFailedProbeDoublesThePauseUpToTheLongest) {
  DraftBreaker breaker(3);
  absl::Duration now = Open(breaker, absl::Seconds(1));
  absl::Duration pause = DraftBreaker::kFirstPause;
  for (int i = 0; i < 8; ++i) {
    now += 1.2 * pause;
    ASSERT_TRUE(breaker.Admit(now)) << "probe " << i;
    breaker.OnTimeout(now, kWaited);
    pause = std::min(2 * pause, DraftBreaker::kLongestPause);
    EXPECT_FALSE(breaker.Admit(now + 0.85 * pause)) << "after probe " << i;
  }
}

TEST(DraftBreakerTest, PausesBetweenLongProbesAreLongToo) {
  DraftBreaker breaker(3);
  absl::Duration now = Open(breaker, absl::Seconds(1));
  const absl::Duration waited = absl::Seconds(5);
  for (int i = 0; i < 8; ++i) {
    now += 1.2 * DraftBreaker::kLongestPauseTimeouts * waited;
    ASSERT_TRUE(breaker.Admit(now)) << "probe " << i;
    breaker.OnTimeout(now, waited);
  }
  EXPECT_FALSE(breaker.Admit(now + 0.85 * DraftBreaker::kLongestPauseTimeouts * waited));
}

TEST(DraftBreakerTest, AProbeThatIsWithdrawnGoesOutAgain) {
  DraftBreaker breaker(1);
  const absl::Duration later = Open(breaker, absl::Seconds(1)) + 2 * DraftBreaker::kFirstPause;
  ASSERT_TRUE(breaker.Admit(later));
  breaker.OnWithdrawn();
  EXPECT_TRUE(breaker.Admit(later));
}

TEST(DraftBreakerTest, TenProtocolErrorsAMinuteOpenItAndSlowerOnesDoNot) {
  DraftBreaker breaker(1);
  absl::Duration now = absl::Seconds(1);
  for (int i = 0; i < 30; ++i) {
    breaker.OnProtocolError(now);
    now += absl::Seconds(7);
  }
  EXPECT_EQ(breaker.state(now), State::kClosed);
  for (int i = 0; i < DraftBreaker::kProtocolErrorsToOpen; ++i) breaker.OnProtocolError(now);
  EXPECT_EQ(breaker.state(now), State::kOpen);
}

}  // namespace
}  // namespace tandem::verifier
