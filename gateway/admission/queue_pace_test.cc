#include "gateway/admission/queue_pace.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

constexpr absl::Duration kSecond = absl::Seconds(1);

// `count` places freed, one every `interval`; returns the time.
absl::Duration Free(QueuePace& pace, int count, absl::Duration interval, absl::Duration now) {
  for (int i = 0; i < count; ++i) pace.PlaceFreed(now += interval);
  return now;
}

TEST(QueuePaceTest, IsTheTimeBetweenFreedPlaces) {
  QueuePace pace;
  pace.SetWaiting(true, 100 * kSecond);
  Free(pace, 50, 3 * kSecond, 100 * kSecond);
  ASSERT_TRUE(pace.per_choice().has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*pace.per_choice()), 3, 0.15);
}

TEST(QueuePaceTest, ThereIsNoEstimateBeforeEnoughPlacesWereFreed) {
  QueuePace pace;
  EXPECT_FALSE(pace.per_choice().has_value());
  pace.SetWaiting(true, absl::ZeroDuration());
  const absl::Duration now = Free(pace, QueuePace::kMinFreed - 1, kSecond, absl::ZeroDuration());
  EXPECT_FALSE(pace.per_choice().has_value());
  pace.PlaceFreed(now + kSecond);
  EXPECT_TRUE(pace.per_choice().has_value());
}

TEST(QueuePaceTest, PlacesFreedWithoutAQueueSayNothing) {
  QueuePace pace;
  const absl::Duration now = Free(pace, 100, kSecond, absl::ZeroDuration());
  EXPECT_FALSE(pace.per_choice().has_value());
  pace.SetWaiting(true, now);
  Free(pace, 20, 5 * kSecond, now);
  EXPECT_NEAR(absl::ToDoubleSeconds(*pace.per_choice()), 5, 0.25);
}

TEST(QueuePaceTest, TimeWithoutAQueueDoesNotCount) {
  QueuePace pace;
  absl::Duration now = absl::ZeroDuration();
  for (int i = 0; i < 20; ++i) {
    pace.SetWaiting(true, now);
    now = Free(pace, 4, kSecond, now);
    pace.SetWaiting(false, now);
    now += 50 * kSecond;
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(*pace.per_choice()), 1, 0.05);
}

TEST(QueuePaceTest, PlacesFreedTogetherShareTheTimeBeforeThem) {
  QueuePace pace;
  absl::Duration now = absl::ZeroDuration();
  pace.SetWaiting(true, now);
  for (int i = 0; i < 30; ++i) {
    now += 8 * kSecond;
    for (int k = 0; k < 8; ++k) pace.PlaceFreed(now);
  }
  EXPECT_NEAR(absl::ToDoubleSeconds(*pace.per_choice()), 1, 0.2);
}

TEST(QueuePaceTest, FollowsAChangeOfPace) {
  QueuePace pace;
  pace.SetWaiting(true, absl::ZeroDuration());
  absl::Duration now = Free(pace, 1000, kSecond, absl::ZeroDuration());
  now = Free(pace, 100, 10 * kSecond, now);
  EXPECT_NEAR(absl::ToDoubleSeconds(*pace.per_choice()), 10, 1);
  Free(pace, 100, kSecond, now);
  EXPECT_NEAR(absl::ToDoubleSeconds(*pace.per_choice()), 1, 0.6);
}

TEST(QueuePaceTest, AQueueAfterALongTimeWithoutOneStartsAnew) {
  QueuePace pace;
  pace.SetWaiting(true, absl::ZeroDuration());
  absl::Duration now = Free(pace, 20, kSecond, absl::ZeroDuration());
  pace.SetWaiting(false, now);
  now += QueuePace::kForgetAfter;
  pace.SetWaiting(true, now);
  EXPECT_TRUE(pace.per_choice().has_value());
  pace.SetWaiting(false, now);
  now += QueuePace::kForgetAfter + absl::Nanoseconds(1);
  EXPECT_TRUE(pace.per_choice().has_value());  // nobody asks meanwhile: an empty queue lets everybody in
  pace.SetWaiting(true, now);
  EXPECT_FALSE(pace.per_choice().has_value());
}

}  // namespace
}  // namespace tandem::gateway
