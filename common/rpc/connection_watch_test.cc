#include "common/rpc/connection_watch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kMessage = 1 << 20;

ConnectionWatch::Options Options() { return {.message_bytes = kMessage, .stall = absl::Seconds(30)}; }

std::vector<std::string> Look(ConnectionWatch& watch, std::vector<ConnectionTraffic> connections) {
  return watch.Misused(connections);
}

TEST(ConnectionWatch, NamesWhoSendsMoreThanItsCallsExplain) {
  ConnectionWatch watch(Options());
  const uint64_t idle = ConnectionWatch::kIdleBytes;
  EXPECT_THAT(Look(watch, {{"a", idle, 0, false}, {"b", idle + 1, 0, false}}), ElementsAre("b"));
  watch.OnCallOrReceived("a");
  EXPECT_THAT(Look(watch, {{"a", idle + kMessage / 4 * 5, 0, false}}), IsEmpty());
  EXPECT_THAT(Look(watch, {{"a", idle + kMessage / 2 * 3, 0, false}}), ElementsAre("a"));
}

TEST(ConnectionWatch, ManyMessagesAndAnswersExplainManyBytes) {
  ConnectionWatch watch(Options());
  uint64_t received = 0;
  for (int look = 0; look < 100; ++look) {
    for (int i = 0; i < 10; ++i) {
      watch.OnCallOrReceived("sender");
      received += kMessage;
      for (int j = 0; j < 1000; ++j) watch.OnSent("reader");
    }
    ASSERT_THAT(Look(watch, {{"sender", received, 0, false},
                             {"reader", static_cast<uint64_t>(look + 1) * 10'000 * 26, 0, false}}),
                IsEmpty());
  }
}

TEST(ConnectionWatch, NamesWhoTakesNothingForThirtySeconds) {
  ConnectionWatch watch(Options());
  const ConnectionTraffic slow{"slow", 0, 7, true};
  EXPECT_THAT(Look(watch, {slow}), IsEmpty());  // it had taken seven bytes before
  for (int look = 1; look < 30; ++look) EXPECT_THAT(Look(watch, {slow}), IsEmpty()) << look;
  EXPECT_THAT(Look(watch, {slow}), ElementsAre("slow"));
}

TEST(ConnectionWatch, OneByteTakenOrNothingWaitingIsEnough) {
  ConnectionWatch watch(Options());
  for (uint64_t look = 0; look < 20; ++look) {
    EXPECT_THAT(Look(watch, {{"slow", 0, 7 + look / 5, true}, {"idle", 0, 7, false}}), IsEmpty()) << look;
  }
}

TEST(ConnectionWatch, ForgetsWhoHasLeft) {
  ConnectionWatch watch(Options());
  for (int i = 0; i < 10; ++i) watch.OnCallOrReceived("a");
  const ConnectionTraffic big{"a", 10 * kMessage, 0, false};
  EXPECT_THAT(Look(watch, {big}), IsEmpty());
  EXPECT_THAT(Look(watch, {}), IsEmpty());
  EXPECT_THAT(Look(watch, {}), IsEmpty());
  EXPECT_THAT(Look(watch, {big}), ElementsAre("a")) << "another connection from the same port";
}

TEST(ConnectionWatch, RemembersCallsOfAConnectionThatItHasNotSeenYet) {
  ConnectionWatch watch(Options());
  for (int i = 0; i < 10; ++i) watch.OnCallOrReceived("a");
  EXPECT_THAT(Look(watch, {}), IsEmpty());
  EXPECT_THAT(Look(watch, {{"a", 10 * kMessage, 0, false}}), IsEmpty());
}

}  // namespace
}  // namespace tandem::rpc
