#include "cli/bar_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(BarChartTest, BarsAreProportionalInEighths) {
  EXPECT_EQ(TextBars({{"off", 10, 0, 0, ""}, {"prefix", 25, 0, 0, "2.50x"}}, "tokens/s", 5),
            "off     ██    10.0 tokens/s\n"
            "prefix  █████ 25.0 tokens/s  2.50x\n");
  EXPECT_EQ(TextBars({{"a", 1, 0, 0, ""}, {"b", 8, 0, 0, ""}}, "x", 1), "a  ▏ 1.0 x\nb  █ 8.0 x\n");
}

TEST(BarChartTest, NothingMeasuredIsNoBar) {
  EXPECT_EQ(TextBars({{"off", 0, 0, 0, ""}}, "x", 3), "off      0.0 x\n");
  EXPECT_THAT(SvgBars("t", "x", {{"off", 0, 0, 0, ""}}), Not(HasSubstr("nan")));
}

TEST(BarChartTest, SvgScalesToTheLongestWhiskerAndEscapesText) {
  const std::string svg = SvgBars("a < b & c", "tokens/s", {{"off", 10, 8, 20, ""}, {"\"p\"", 5, 0, 0, "x"}});
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  EXPECT_THAT(svg, HasSubstr("&quot;p&quot;"));
  EXPECT_THAT(svg, HasSubstr("width=\"185.0\""));  // (720 - 150 - 200) / 20 * 10
  EXPECT_THAT(svg, HasSubstr("width=\"92.5\""));
  EXPECT_THAT(svg, HasSubstr("M298.0 67H520.0"));
}

}  // namespace
}  // namespace tandem::cli
