#include "common/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace tandem {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEachTileOnce) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 2000; ++round) {
    const int num_tiles = round % 37;
    std::vector<std::atomic<int>> counts(num_tiles);
    pool.ForEachTile(num_tiles, [&](int tile) { ++counts[tile]; });
    for (const auto& count : counts) ASSERT_EQ(count.load(), 1);
  }
}

TEST_P(ThreadPoolTest, WritesAreVisibleToTheCaller) {
  ThreadPool pool(GetParam());
  std::vector<int> values(64);
  for (int round = 0; round < 2000; ++round) {
    ThreadPool::Active active(pool);
    pool.ForEachTile(64, [&](int tile) { values[tile] = round; });
    pool.ForEachTile(64, [&](int tile) { values[tile] += values[tile]; });
    for (int value : values) ASSERT_EQ(value, 2 * round);
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 4));

}  // namespace
}  // namespace tandem
