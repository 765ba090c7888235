#include "common/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace tandem::telemetry {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

TEST(Metrics, DeclaredSeriesStandAtZero) {
  Metrics metrics("tandem-test");
  metrics.AddCounter("preemptions_total", "Preemptions");
  metrics.AddCounters("stale_messages_total", "Stale", "stream", {"run", "speculate"});
  metrics.AddHistogram("step_seconds", "Step", StepBuckets(), {{"phase", "plan"}});
  const std::string text = metrics.Scrape();
  EXPECT_THAT(text, HasSubstr("\ntandem_preemptions_total 0\n"));
  EXPECT_THAT(text, HasSubstr("tandem_stale_messages_total{stream=\"run\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("tandem_stale_messages_total{stream=\"speculate\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("tandem_step_seconds_count{phase=\"plan\"} 0\n"));
}

TEST(Metrics, EveryProcessSaysWhatItIsAndUses) {
  Metrics metrics("tandem-test");
  const std::string text = metrics.Scrape();
  EXPECT_THAT(text,
              HasSubstr("tandem_build_info{service=\"tandem-test\",version=\"" TANDEM_VERSION "\"} 1\n"));
  for (const char* name : {"process_open_fds", "process_max_fds", "process_resident_memory_bytes",
                           "process_cpu_seconds_total", "process_start_time_seconds"}) {
    EXPECT_THAT(text, ContainsRegex(std::string("\n") + name + " [1-9]|\n" + name + " 0\\.")) << text;
  }
}

TEST(Metrics, CollectorsRunAtEachScrape) {
  Metrics metrics("tandem-test");
  prometheus::Gauge& gauge = metrics.AddGauge("waiting", "Waiting");
  int calls = 0;
  metrics.OnScrape([&] { gauge.Set(++calls); });
  EXPECT_THAT(metrics.Scrape(), HasSubstr("\ntandem_waiting 1\n"));
  EXPECT_THAT(metrics.Scrape(), HasSubstr("\ntandem_waiting 2\n"));
}

TEST(Metrics, RaiseToNeverLowersACounter) {
  Metrics metrics("tandem-test");
  prometheus::Counter& counter = metrics.AddCounter("x_total", "X");
  RaiseTo(counter, 5);
  RaiseTo(counter, 3);
  EXPECT_EQ(counter.Value(), 5);
  RaiseTo(counter, 6);
  EXPECT_EQ(counter.Value(), 6);
}

TEST(Metrics, CountsSeriesWithTheirBuckets) {
  Metrics metrics("tandem-test");
  const int before = metrics.num_series();
  metrics.AddHistogram("x_seconds", "X", {1, 2});
  EXPECT_EQ(metrics.num_series(), before + 3 + 2);  // two bounds, +Inf, sum, count
}

TEST(Metrics, TheSameSeriesAgainIsTheSameCounter) {
  Metrics metrics("tandem-test");
  prometheus::Counter& first = metrics.AddCounter("x_total", "X", {{"stream", "run"}});
  EXPECT_EQ(&first, &metrics.AddCounter("x_total", "X", {{"stream", "run"}}));
}

TEST(Metrics, BucketsAscend) {
  for (const Buckets* buckets :
       {&TimeToFirstTokenBuckets(), &TimePerOutputTokenBuckets(), &EndToEndBuckets(), &StepBuckets(),
        &TokenCountBuckets(), &PowerOfTwoBuckets(), &WindowBuckets(), &RelativeErrorBuckets()}) {
    EXPECT_TRUE(std::is_sorted(buckets->begin(), buckets->end(), std::less_equal<>()));
  }
  EXPECT_EQ(TokenCountBuckets().front(), 1);
  EXPECT_EQ(TokenCountBuckets().back(), 200000);
}

TEST(LabelledDeathTest, AnUndeclaredValueIsABugOfOurs) {
  Metrics metrics("tandem-test");
  auto stale = metrics.AddCounters("stale_messages_total", "Stale", "stream", {"run"});
  EXPECT_DEATH(stale["walk"].Increment(), "check failed");
}

}  // namespace
}  // namespace tandem::telemetry
