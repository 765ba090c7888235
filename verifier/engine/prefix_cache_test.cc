#include "verifier/engine/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int kBlock = kernels::kKvBlockPositions;

// Tokens first, first + 1, ...
std::vector<int32_t> Tokens(int count, int32_t first = 0) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A pool, its cache, and what a sequence does with them.
class PrefixCacheTest : public ::testing::Test {
 protected:
  explicit PrefixCacheTest(int blocks = 8) : pool(blocks), cache(pool, /*enabled=*/true) {}

  // Matches what is known of `tokens`, computes and registers the other full blocks. The table.
  std::vector<int32_t> Run(std::string_view owner, const std::vector<int32_t>& tokens) {
    PrefixEntry last;
    const auto length = static_cast<int32_t>(tokens.size());
    std::vector<int32_t> table = cache.Match(owner, tokens, length, &last);
    for (int end = static_cast<int>(table.size() + 1) * kBlock; end <= length; end += kBlock) {
      const int32_t block = cache.Take();
      EXPECT_GE(block, 0);
      table.push_back(cache.Insert(owner, &last, std::span(tokens).subspan(end - kBlock, kBlock), block));
    }
    return table;
  }
  // The same for a sequence that has ended: its blocks stay cached.
  std::vector<int32_t> RunToEnd(std::string_view owner, const std::vector<int32_t>& tokens) {
    std::vector<int32_t> table = Run(owner, tokens);
    cache.Release(table);
    return table;
  }
  int Known(std::string_view owner, const std::vector<int32_t>& tokens) {
    return cache.Peek(owner, tokens, static_cast<int32_t>(tokens.size())).blocks;
  }

  BlockPool pool;
  PrefixCache cache;
};

TEST_F(PrefixCacheTest, FindsTheLongestRunOfFullBlocks) {
  const auto table = RunToEnd("", Tokens(3 * kBlock));
  auto other = Tokens(4 * kBlock);
  other[2 * kBlock + 5] = 999;  // differs in its third block
  PrefixEntry last;
  const auto found = cache.Match("", other, 4 * kBlock, &last);
  EXPECT_THAT(found, ElementsAre(table[0], table[1]));
  EXPECT_EQ(last.block, table[1]);
  EXPECT_EQ(pool.references(table[1]), 1);
  EXPECT_EQ(pool.in_use(), 2);
  cache.Release(found);
  pool.CheckInvariant();
}

TEST_F(PrefixCacheTest, MatchEndsAtTheLengthThatMayBeUsed) {
  RunToEnd("", Tokens(3 * kBlock));
  for (const auto& [max_length, blocks] :
       {std::pair{0, 0u}, {kBlock - 1, 0u}, {kBlock, 1u}, {3 * kBlock - 1, 2u}, {3 * kBlock, 3u}}) {
    PrefixEntry last;
    const auto found = cache.Match("", Tokens(3 * kBlock), max_length, &last);
    EXPECT_EQ(found.size(), blocks) << max_length;
    EXPECT_EQ(last.number != 0, blocks > 0) << max_length;
    cache.Release(found);
  }
}

TEST_F(PrefixCacheTest, PeekCountsWithoutSharing) {
  const auto tokens = Tokens(3 * kBlock);
  RunToEnd("", tokens);
  const auto held = Run("", Tokens(kBlock));
  const PrefixCache::Found found = cache.Peek("", tokens, 3 * kBlock);
  EXPECT_EQ(found.blocks, 3);
  EXPECT_EQ(found.unreferenced, 2);  // the first one is held
  EXPECT_EQ(pool.references(held[0]), 1);
  EXPECT_EQ(pool.cached(), 2);
}

TEST_F(PrefixCacheTest, TheSameBlockBehindAnotherPrefixIsAnother) {
  auto a = Tokens(2 * kBlock), b = Tokens(2 * kBlock);
  b[0] = 77;  // same second block, other first
  const auto table_a = RunToEnd("", a);
  EXPECT_EQ(Known("", b), 0);
  const auto table_b = RunToEnd("", b);
  EXPECT_NE(table_a[1], table_b[1]);
  EXPECT_EQ(Known("", a), 2);
  EXPECT_EQ(Known("", b), 2);
}

TEST_F(PrefixCacheTest, OwnersAreApart) {
  const auto tokens = Tokens(2 * kBlock);
  const auto mine = RunToEnd("me", tokens);
  EXPECT_EQ(Known("you", tokens), 0);
  EXPECT_EQ(Known("", tokens), 0);
  EXPECT_EQ(Known("me", tokens), 2);
  const auto yours = RunToEnd("you", tokens);
  EXPECT_THAT(yours, ::testing::Each(::testing::Not(::testing::AnyOfArray(mine))));
}

TEST_F(PrefixCacheTest, InsertOfAKnownContentReturnsTheSharedBlock) {
  const auto tokens = Tokens(kBlock);
  // Two sequences compute the same block side by side.
  const int32_t first = cache.Take(), second = cache.Take();
  PrefixEntry entry_1, entry_2;
  EXPECT_EQ(cache.Insert("", &entry_1, tokens, first), first);
  EXPECT_EQ(cache.Insert("", &entry_2, tokens, second), first);
  EXPECT_EQ(entry_1.number, entry_2.number);
  EXPECT_EQ(entry_2.block, first);
  EXPECT_EQ(pool.references(first), 2);
  EXPECT_EQ(pool.references(second), 0);
  EXPECT_EQ(pool.free(), pool.total() - 1);  // the second's own block is free, not cached
  cache.Release({&first, 1});
  cache.Release({&first, 1});
  EXPECT_EQ(pool.cached(), 1);
}

TEST_F(PrefixCacheTest, AKnownContentThatNobodyHoldsIsTakenOutOfTheEvictionOrder) {
  const auto tokens = Tokens(kBlock);
  const auto known = RunToEnd("", tokens);
  const int32_t own = cache.Take();
  PrefixEntry entry;
  EXPECT_EQ(cache.Insert("", &entry, tokens, own), known[0]);
  for (int i = 0; i < pool.total() - 1; ++i) EXPECT_NE(cache.Take(), known[0]);
  EXPECT_EQ(cache.Take(), -1);
}

TEST_F(PrefixCacheTest, MatchNextMovesOnBlockByBlock) {
  const auto tokens = Tokens(2 * kBlock);
  const auto table = RunToEnd("", tokens);
  PrefixEntry at;
  EXPECT_EQ(cache.MatchNext("", &at, std::span(tokens).first(kBlock)), table[0]);
  EXPECT_EQ(cache.MatchNext("", &at, std::span(tokens).subspan(kBlock)), table[1]);
  EXPECT_EQ(at.block, table[1]);
  const PrefixEntry before = at;
  EXPECT_EQ(cache.MatchNext("", &at, std::span(tokens).subspan(kBlock)), -1);
  EXPECT_EQ(at.number, before.number);  // stays where it was
}

TEST_F(PrefixCacheTest, TheLeastRecentlyUsedGoesFirst) {
  const auto a = Tokens(kBlock, 100), b = Tokens(kBlock, 200), c = Tokens(kBlock, 300);
  RunToEnd("", a);
  RunToEnd("", b);
  RunToEnd("", c);
  RunToEnd("", a);                           // used again: now the newest
  for (int i = 0; i < 5; ++i) cache.Take();  // the free ones
  EXPECT_EQ(pool.free(), 0);
  cache.Take();
  EXPECT_THAT(std::vector({Known("", a), Known("", b), Known("", c)}), ElementsAre(1, 0, 1));
  cache.Take();
  EXPECT_THAT(std::vector({Known("", a), Known("", b), Known("", c)}), ElementsAre(1, 0, 0));
  cache.Take();
  EXPECT_EQ(Known("", a), 0);
  EXPECT_EQ(cache.Take(), -1);
  EXPECT_EQ(cache.available(), 0);
}

TEST_F(PrefixCacheTest, ChildrenGoBeforeTheirParents) {
  const auto tokens = Tokens(4 * kBlock);
  RunToEnd("", tokens);
  for (int i = 0; i < 4; ++i) cache.Take();
  for (const int left : {3, 2, 1, 0}) {
    EXPECT_GE(cache.Take(), 0);
    EXPECT_EQ(Known("", tokens), left);  // from the end: what is left is still a prefix
  }
}

TEST_F(PrefixCacheTest, WhoHoldsAChildProtectsItsParents) {
  const auto tokens = Tokens(3 * kBlock);
  const auto held = Run("", tokens);
  RunToEnd("", Tokens(kBlock, 500));
  for (int i = 0; i < 5; ++i) EXPECT_THAT(held, ::testing::Not(::testing::Contains(cache.Take())));
  EXPECT_EQ(cache.Take(), -1);
  EXPECT_EQ(Known("", tokens), 3);
  EXPECT_EQ(Known("", Tokens(kBlock, 500)), 0);
}

TEST_F(PrefixCacheTest, AnEvictedContentIsComputedAnew) {
  const auto tokens = Tokens(2 * kBlock);
  RunToEnd("", tokens);
  std::vector<int32_t> all(pool.total());
  for (int32_t& block : all) block = cache.Take();
  EXPECT_EQ(Known("", tokens), 0);
  cache.Release(all);
  EXPECT_EQ(pool.free(), pool.total());  // without content nothing is kept
  RunToEnd("", tokens);
  EXPECT_EQ(Known("", tokens), 2);
}

// XXH3 of 64 bytes multiplies (8 bytes ^ (secret + seed)) with the 8 bytes after them: where the first factor
// is zero, the second ones do not matter. So contents that collide in all 64 bits can be written down.
TEST_F(PrefixCacheTest, EqualityDecidesWhereHashesCollide) {
  static_assert(kBlock * sizeof(int32_t) == 64);
  constexpr uint64_t kSecret = 0xbe4ba423396cfeb8;  // the first eight bytes of XXH3's default secret
  const std::string owner = "owner";
  const uint64_t seed = XXH3_64bits_withSeed(owner.data(), owner.size(), 0);
  std::vector<int32_t> a = Tokens(kBlock);
  const uint64_t zero_factor = kSecret + seed;
  std::memcpy(a.data(), &zero_factor, sizeof(zero_factor));
  std::vector<int32_t> b = a;
  b[2] += 1;
  b[3] += 41;
  ASSERT_NE(a, b);
  ASSERT_EQ(PrefixCache::HashOf({}, owner, a), PrefixCache::HashOf({}, owner, b));

  const auto table_a = RunToEnd(owner, a);
  EXPECT_EQ(Known(owner, b), 0);
  const auto table_b = RunToEnd(owner, b);
  EXPECT_NE(table_a, table_b);
  PrefixEntry last;
  EXPECT_EQ(cache.Match(owner, a, kBlock, &last), table_a);
  EXPECT_EQ(cache.Match(owner, b, kBlock, &last), table_b);
}

TEST_F(PrefixCacheTest, TablesStayTrueOverRandomUse) {
  // Contents from a small set, so that hits, twins and evictions all happen; a model of what each block holds
  // is compared at every hit.
  std::mt19937 random(3);
  std::vector<std::vector<int32_t>> content(pool.total());  // by block: all tokens up to its end
  std::vector<std::vector<int32_t>> running;
  int hits = 0, evictions = 0;
  for (int round = 0; round < 3000; ++round) {
    if (running.size() == 2 || (!running.empty() && random() % 2 == 0)) {
      std::swap(running[random() % running.size()], running.back());
      cache.Release(running.back());
      running.pop_back();
      pool.CheckInvariant();
      continue;
    }
    std::vector<int32_t> tokens;
    const int num_blocks = 1 + random() % 4;
    for (int block = 0; block < num_blocks; ++block) {
      const auto part = Tokens(kBlock, static_cast<int32_t>(random() % 3));
      tokens.insert(tokens.end(), part.begin(), part.end());
    }
    PrefixEntry last;
    auto table = cache.Match("", tokens, num_blocks * kBlock, &last);
    for (size_t i = 0; i < table.size(); ++i) {
      const std::vector<int32_t> prefix(tokens.begin(), tokens.begin() + (i + 1) * kBlock);
      ASSERT_EQ(content[table[i]], prefix) << "round " << round << ", block " << i;
      ++hits;
    }
    while (static_cast<int>(table.size()) < num_blocks) {
      const auto begin = static_cast<ptrdiff_t>(table.size()) * kBlock;
      evictions += pool.free() == 0;
      const int32_t block = cache.Take();
      ASSERT_GE(block, 0);
      content[block].assign(tokens.begin(), tokens.begin() + begin + kBlock);
      table.push_back(cache.Insert("", &last, std::span(tokens).subspan(begin, kBlock), block));
    }
    running.push_back(std::move(table));
  }
  EXPECT_GT(hits, 100);
  EXPECT_GT(evictions, 100);
}

TEST(DisabledPrefixCacheTest, NothingIsFoundOrKept) {
  BlockPool pool(4);
  PrefixCache cache(pool, /*enabled=*/false);
  const auto tokens = Tokens(kBlock);
  const int32_t block = cache.Take();
  PrefixEntry last;
  EXPECT_EQ(cache.Insert("", &last, tokens, block), block);
  EXPECT_EQ(last.number, 0u);
  EXPECT_THAT(cache.Match("", tokens, kBlock, &last), IsEmpty());
  EXPECT_EQ(cache.Peek("", tokens, kBlock).blocks, 0);
  EXPECT_EQ(cache.MatchNext("", &last, tokens), -1);
  cache.Release({&block, 1});
  EXPECT_EQ(pool.free(), 4);
}

}  // namespace
}  // namespace tandem::verifier
