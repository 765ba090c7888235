#include "verifier/engine/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace tandem::verifier {
namespace {

TEST(BlockPoolTest, GivesEveryBlockOnceThenNothing) {
  BlockPool pool(5);
  std::set<int32_t> taken;
  for (int i = 0; i < 5; ++i) {
    const std::optional<int32_t> block = pool.Take();
    ASSERT_TRUE(block.has_value());
    EXPECT_TRUE(*block >= 0 && *block < 5);
    EXPECT_TRUE(taken.insert(*block).second) << *block << " twice";
  }
  EXPECT_EQ(pool.Take(), std::nullopt);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_EQ(pool.in_use(), 5);
  pool.CheckInvariant();
}

TEST(BlockPoolTest, LatelyFreedBlocksComeFirst) {
  BlockPool pool(8);
  const int32_t a = *pool.Take(), b = *pool.Take();
  pool.Release(a, /*keep=*/false);
  pool.Release(b, /*keep=*/false);
  EXPECT_EQ(pool.Take(), b);
  EXPECT_EQ(pool.Take(), a);
}

TEST(BlockPoolTest, OnlyTheLastReferenceFreesABlock) {
  BlockPool pool(2);
  const int32_t block = *pool.Take();
  pool.Share(block);
  pool.Share(block);
  EXPECT_EQ(pool.references(block), 3);
  EXPECT_FALSE(pool.Release(block, /*keep=*/false));
  EXPECT_FALSE(pool.Release(block, /*keep=*/true));  // what an earlier owner wanted does not matter
  EXPECT_EQ(pool.in_use(), 1);
  EXPECT_TRUE(pool.Release(block, /*keep=*/false));
  EXPECT_EQ(pool.references(block), 0);
  EXPECT_FALSE(pool.is_cached(block));
  EXPECT_EQ(pool.free(), 2);
  pool.CheckInvariant();
}

TEST(BlockPoolTest, AKeptBlockIsCachedUntilItIsSharedOrDiscarded) {
  BlockPool pool(1);
  const int32_t block = *pool.Take();
  EXPECT_TRUE(pool.Release(block, /*keep=*/true));
  EXPECT_TRUE(pool.is_cached(block));
  EXPECT_EQ(pool.cached(), 1);
  EXPECT_EQ(pool.Take(), std::nullopt);  // cached is not free

  pool.Share(block);
  EXPECT_FALSE(pool.is_cached(block));
  EXPECT_EQ(pool.references(block), 1);
  EXPECT_EQ(pool.cached(), 0);

  pool.Release(block, /*keep=*/true);
  pool.Discard(block);
  EXPECT_EQ(pool.cached(), 0);
  EXPECT_EQ(pool.Take(), block);
}

TEST(BlockPoolTest, TotalsHoldOverRandomTransitions) {
  constexpr int kBlocks = 20;
  BlockPool pool(kBlocks);
  std::mt19937 random(1);
  std::vector<int32_t> held;  // one entry a reference
  for (int i = 0; i < 20000; ++i) {
    switch (random() % 4) {
      case 0:
        if (const auto block = pool.Take()) held.push_back(*block);
        break;
      case 1:
        if (const int32_t block = random() % kBlocks; pool.references(block) > 0 || pool.is_cached(block)) {
          pool.Share(block);
          held.push_back(block);
        }
        break;
      case 2:
        if (!held.empty()) {
          std::swap(held[random() % held.size()], held.back());
          pool.Release(held.back(), /*keep=*/random() % 2 == 0);
          held.pop_back();
        }
        break;
      case 3:
        if (const int32_t block = random() % kBlocks; pool.is_cached(block)) pool.Discard(block);
        break;
    }
    pool.CheckInvariant();
    ASSERT_EQ(pool.in_use(), static_cast<int32_t>(std::set(held.begin(), held.end()).size()));
  }
}

TEST(BlockPoolDeathTest, TransitionsThatDoNotExistEndTheProcess) {
  BlockPool pool(2);
  const int32_t block = *pool.Take();
  EXPECT_DEATH(pool.Discard(block), "check failed");  // in use
  pool.Release(block, /*keep=*/false);
  EXPECT_DEATH(pool.Share(block), "check failed");                    // free
  EXPECT_DEATH(pool.Release(block, /*keep=*/false), "check failed");  // no reference left
  EXPECT_DEATH(pool.Discard(block), "check failed");
  EXPECT_DEATH(BlockPool(0), "check failed");
}

}  // namespace
}  // namespace tandem::verifier
