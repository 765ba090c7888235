#include "gateway/telemetry/readiness.h"

#include <vector>

#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kGrace = absl::Seconds(3);
constexpr absl::Duration kTick = absl::Nanoseconds(1);

class ReadinessTest : public ::testing::Test {
 protected:
  ReadinessTest() : readiness_([this](bool ready) { published_.push_back(ready); }, kGrace, clock_) {}

  void Tell(bool any_ready) {
    readiness_.SetVerifiersReady(any_ready);
    readiness_.Settle();
  }
  void Pass(absl::Duration time) {
    clock_.Advance(time);
    readiness_.Settle();
  }

  FakeClock clock_;
  std::vector<bool> published_;  // by the readiness's thread, which sleeps while the test looks
  Readiness readiness_;
};

TEST_F(ReadinessTest, NothingIsPublishedBeforeTheFirstVerifier) {
  Pass(absl::Hours(1));
  Tell(false);
  EXPECT_THAT(published_, IsEmpty());
}

TEST_F(ReadinessTest, ReadyAtOnceWithTheFirstVerifier) {
  Tell(true);
  EXPECT_THAT(published_, ElementsAre(true));
  Pass(absl::Hours(1));
  Tell(true);
  EXPECT_THAT(published_, ElementsAre(true));
}

TEST_F(ReadinessTest, StaysReadyUntilTheGraceIsOver) {
  Tell(true);
  Pass(absl::Hours(1));
  Tell(false);
  Pass(kGrace - kTick);
  EXPECT_THAT(published_, ElementsAre(true));
  Tell(false);  // said again, which extends nothing
  Pass(kTick);
  EXPECT_THAT(published_, ElementsAre(true, false));
}

TEST_F(ReadinessTest, AVerifierThatComesBackInTimeIsNotNoticed) {
  Tell(true);
  for (int i = 0; i < 3; ++i) {
    Tell(false);
    Pass(kGrace - kTick);
    Tell(true);
    Pass(absl::Hours(1));
  }
  EXPECT_THAT(published_, ElementsAre(true));
}

TEST_F(ReadinessTest, ReadyAgainWithTheNextVerifier) {
  Tell(true);
  Tell(false);
  Pass(kGrace);
  Tell(true);
  EXPECT_THAT(published_, ElementsAre(true, false, true));
}

TEST_F(ReadinessTest, NothingIsPublishedAfterTheStop) {
  Tell(true);
  readiness_.Stop();
  Tell(false);
  Pass(kGrace);
  readiness_.Stop();
  EXPECT_THAT(published_, ElementsAre(true));
}

TEST(ReadinessOnTheRealClockTest, TheEndOfTheGraceWakesItUp) {
  absl::Notification ready, not_ready;
  Readiness readiness([&](bool is_ready) { (is_ready ? ready : not_ready).Notify(); }, absl::Milliseconds(1),
                      Clock::Real());
  readiness.SetVerifiersReady(true);
  ASSERT_TRUE(ready.WaitForNotificationWithTimeout(absl::Seconds(30)));
  readiness.SetVerifiersReady(false);
  EXPECT_TRUE(not_ready.WaitForNotificationWithTimeout(absl::Seconds(30)));
}

}  // namespace
}  // namespace tandem::gateway
