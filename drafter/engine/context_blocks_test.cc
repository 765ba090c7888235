#include "drafter/engine/context_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::drafter {
namespace {

TEST(ContextBlocks, AreTakenUntilNoneIsLeftAndComeBack) {
  ContextBlocks blocks(2);
  const int32_t a = *blocks.Take(), b = *blocks.Take();
  EXPECT_NE(a, b);
  EXPECT_FALSE(blocks.Take().has_value());
  blocks.Release(a);
  EXPECT_EQ(blocks.free(), 1);
  EXPECT_EQ(blocks.Take(), a);
}

TEST(ContextBlocks, APublishedBlockIsSharedUntilItsLastUserLeaves) {
  ContextBlocks blocks(1);
  const ChainHash chain{1, 2};
  EXPECT_FALSE(blocks.FindShared(chain).has_value());
  const int32_t block = *blocks.Take();
  blocks.Publish(block, chain);
  EXPECT_FALSE(blocks.IsExclusive(block));
  EXPECT_EQ(blocks.FindShared(chain), block);
  EXPECT_EQ(blocks.references(block), 2);
  blocks.Release(block);
  EXPECT_EQ(blocks.FindShared(chain), block);
  blocks.Release(block);
  blocks.Release(block);
  EXPECT_EQ(blocks.free(), 1);
  EXPECT_FALSE(blocks.FindShared(chain).has_value());
}

TEST(ContextBlocks, AWithdrawnBlockCanBeWritten) {
  ContextBlocks blocks(1);
  const int32_t block = *blocks.Take();
  blocks.Publish(block, {1, 2});
  blocks.Withdraw(block);
  EXPECT_TRUE(blocks.IsExclusive(block));
  EXPECT_FALSE(blocks.FindShared({1, 2}).has_value());
}

TEST(ContextBlocks, ChainsDependOnEveryTokenAndOnWhatCameBefore) {
  const std::vector<int32_t> tokens{1, 2, 3}, other{1, 2, 4};
  const ChainHash a = ExtendChain({1, 0}, tokens);
  EXPECT_EQ(a, ExtendChain({1, 0}, tokens));
  EXPECT_NE(a, ExtendChain({2, 0}, tokens));
  EXPECT_NE(a, ExtendChain({1, 1}, tokens));
  EXPECT_NE(a, ExtendChain({1, 0}, other));
  EXPECT_NE(ExtendChain(a, tokens), a);
}

}  // namespace
}  // namespace tandem::drafter
