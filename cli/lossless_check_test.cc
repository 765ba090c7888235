#include "cli/lossless_check.h"

#include <gtest/gtest.h>

namespace tandem::cli {
namespace {

TEST(LosslessCheckTest, DifferenceNamesTheByteAndItsSurroundings) {
  EXPECT_EQ(DescribeDifference("Ben is a cook", "Ben is a painter"),
            "byte 9: \"Ben is a |cook\" instead of \"Ben is a |painter\"");
  EXPECT_EQ(DescribeDifference("ab", "abc"), "byte 2: \"ab|\" instead of \"ab|c\"");
  EXPECT_EQ(DescribeDifference("0123456789012345678901234x", "0123456789012345678901234y"),
            "byte 25: \"56789012345678901234|x\" instead of \"56789012345678901234|y\"");
}

TEST(LosslessCheckTest, APolicyIsEqualWhenAllItsTextsAre) {
  PolicyVerdict verdict;
  verdict.passes = {{"alone", 3, 3, 10, 4}, {"batched", 3, 3, 20, 5}};
  EXPECT_TRUE(verdict.equal());
  EXPECT_EQ(verdict.checked(), 30);
  EXPECT_EQ(verdict.accepted(), 9);
  verdict.passes.push_back({"faults", 5, 6, 0, 0});
  EXPECT_FALSE(verdict.equal());
}

}  // namespace
}  // namespace tandem::cli
