#include "cli/drafted_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::cli {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(DraftedTextTest, RunsAlternateAndCoverTheText) {
  EXPECT_THAT(
      *CutAtSpans("abcdef", json::parse("[[0,2],[4,5]]")),
      ElementsAre(TextRun{"ab", true}, TextRun{"cd", false}, TextRun{"e", true}, TextRun{"f", false}));
  EXPECT_THAT(*CutAtSpans("abc", json::parse("[[0,3]]")), ElementsAre(TextRun{"abc", true}));
  EXPECT_THAT(*CutAtSpans("abc", json()), ElementsAre(TextRun{"abc", false}));
  EXPECT_THAT(*CutAtSpans("", json::array()), IsEmpty());
}

TEST(DraftedTextTest, RefusesSpansThatDoNotLieInTheText) {
  for (const char* spans : {"[[0,4]]", "[[2,1]]", "[[0,2],[1,3]]", "[[-1,2]]", "[[0]]", "[3]", "{\"a\":1}",
                            "[[0,18446744073709551615]]", "[[0.5,1]]"}) {
    EXPECT_EQ(CutAtSpans("abc", json::parse(spans)).status().code(), absl::StatusCode::kInternal) << spans;
  }
}

}  // namespace
}  // namespace tandem::cli
