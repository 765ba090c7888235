#include "common/rpc/call_limit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace tandem::rpc {
namespace {

TEST(CallLimit, TellsOfEachPeerOnceThatHasTooManyAlive) {
  std::vector<std::string> excess;
  CallLimit limit(2, [&](const std::string& peer) { excess.push_back(peer); });
  for (int i = 0; i < 100; ++i) {  // many, but never more than two at a time
    limit.Begin("a");
    limit.Begin("a");
    limit.End("a");
    limit.End("a");
  }
  EXPECT_THAT(excess, ::testing::IsEmpty());
  for (int i = 0; i < 4; ++i) limit.Begin("a");
  limit.Begin("b");
  limit.Begin("b");
  EXPECT_THAT(excess, ::testing::ElementsAre("a"));
  for (int i = 0; i < 4; ++i) limit.End("a");
  limit.Begin("b");
  EXPECT_THAT(excess, ::testing::ElementsAre("a", "b"));
  for (int i = 0; i < 3; ++i) limit.End("b");
}

}  // namespace
}  // namespace tandem::rpc
