#include "cli/metrics_page.h"

#include <gtest/gtest.h>

namespace tandem::cli {
namespace {

TEST(MetricsPageTest, SumsTheSamplesThatHaveTheLabels) {
  const auto page = MetricsPage::Parse(
      "# HELP a b\n# TYPE a counter\na{x=\"1\",y=\"a,}\\\"b\"} 2\na{x=\"2\",y=\"c\"} 3.5\nb "
      "1e3\nc{le=\"+Inf\"} "
      "+Inf\n");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->Sum("a"), 5.5);
  EXPECT_EQ(page->Sum("a", {{"x", "2"}}), 3.5);
  EXPECT_EQ(page->Sum("a", {{"y", "a,}\\\"b"}}), 2);
  EXPECT_EQ(page->Sum("a", {{"z", "2"}}), 0);
  EXPECT_EQ(page->Sum("b"), 1000);
  EXPECT_EQ(page->Sum("none"), 0);
}

TEST(MetricsPageTest, NamesTheLineThatIsNoSample) {
  for (const char* bad : {"a", "a{x=\"1\"", "a{x=\"1} 2", "a{x} 2", "a b", "{x=\"1\"} 2", "a{x=\"\\"}) {
    EXPECT_EQ(MetricsPage::Parse(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace tandem::cli
