#include "verifier/engine/fair_shares.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

std::vector<int64_t> Divide(int64_t capacity, const std::vector<int64_t>& demands, size_t first = 0) {
  std::vector<int64_t> grants(demands.size(), -1);  // overwritten, whatever was there
  DivideFairly(capacity, demands, first, grants);
  return grants;
}

TEST(DivideFairlyTest, Table) {
  struct Case {
    const char* what;
    int64_t capacity;
    std::vector<int64_t> demands;
    size_t first;
    std::vector<int64_t> grants;
  };
  const Case kCases[] = {
      {"enough for all", 10, {2, 3, 4}, 0, {2, 3, 4}},
      {"equal parts", 9, {100, 100, 100}, 0, {3, 3, 3}},
      {"what the modest leave goes to the others", 12, {1, 100, 100}, 0, {1, 6, 5}},
      {"the odd one goes to the first", 7, {100, 100}, 0, {4, 3}},
      {"or to whose turn it is", 7, {100, 100}, 1, {3, 4}},
      {"cyclically", 5, {100, 100, 100}, 2, {2, 1, 2}},
      {"turns skip the satisfied", 4, {1, 100, 100}, 0, {1, 2, 1}},
      {"fewer than there are entries", 2, {5, 5, 5, 5}, 3, {1, 0, 0, 1}},
      {"who wants nothing gets nothing", 5, {0, 7, 0}, 0, {0, 5, 0}},
      {"nothing to give", 0, {3, 3}, 0, {0, 0}},
      {"less than nothing", -4, {3, 3}, 0, {0, 0}},
      {"nobody", 5, {}, 0, {}},
  };
  for (const Case& c : kCases) {
    EXPECT_THAT(Divide(c.capacity, c.demands, c.first), ElementsAreArray(c.grants)) << c.what;
  }
}

// Max-min fair: all is given away unless everybody is satisfied, and who is not has at most one less than
// anybody else.
TEST(DivideFairlyTest, IsMaxMinFairOnRandomDemands) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int64_t> demands(1 + random() % 9);
    for (int64_t& demand : demands) demand = random() % 30;
    const int64_t capacity = random() % 120;
    const auto grants = Divide(capacity, demands, random() % demands.size());
    const int64_t wanted = std::accumulate(demands.begin(), demands.end(), int64_t{0});
    ASSERT_EQ(std::accumulate(grants.begin(), grants.end(), int64_t{0}), std::min(capacity, wanted));
    for (size_t i = 0; i < demands.size(); ++i) {
      ASSERT_LE(grants[i], demands[i]);
      if (grants[i] == demands[i]) continue;
      ASSERT_GE(grants[i] + 1, *std::ranges::max_element(grants)) << "round " << round << ", entry " << i;
    }
  }
}

TEST(ShareOfTest, IsTheFairPartPlusWhatOthersLeave) {
  EXPECT_EQ(ShareOf(0, 64, std::vector<int64_t>{0}), 64);         // alone, whatever it asks for now
  EXPECT_EQ(ShareOf(0, 64, std::vector<int64_t>{3, 0}), 64);      // the other is idle
  EXPECT_EQ(ShareOf(0, 64, std::vector<int64_t>{3, 10}), 54);     // the other is modest
  EXPECT_EQ(ShareOf(1, 64, std::vector<int64_t>{3, 10}), 61);     // nobody is held to its present demand
  EXPECT_EQ(ShareOf(0, 64, std::vector<int64_t>{100, 100}), 32);  // both want all
  EXPECT_EQ(ShareOf(0, 7, std::vector<int64_t>{100, 100}), 4);    // the odd one goes to the asker, so that
  EXPECT_EQ(ShareOf(1, 7, std::vector<int64_t>{100, 100}), 4);    // nothing is promised to nobody
  EXPECT_EQ(ShareOf(2, 2, std::vector<int64_t>{9, 9, 9, 9}), 1);  // nobody is shut out
  EXPECT_EQ(ShareOf(0, 0, std::vector<int64_t>{9, 9}), 0);
}

}  // namespace
}  // namespace tandem::verifier
