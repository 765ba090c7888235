#include "common/rpc/call_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::rpc {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string CountOf(const std::string& code, const std::string& method, int count) {
  return "tandem_rpc_server_duration_seconds_count{code=\"" + code + "\",method=\"" + method + "\"} " +
         std::to_string(count) + "\n";
}

class CallMetricsTest : public ::testing::Test {
 protected:
  telemetry::Metrics metrics_{"test"};
  CallMetrics calls_{metrics_, {{"/a.B/Ask", {grpc::StatusCode::UNAVAILABLE}}, {"/a.B/Tell", {}}}};
};

TEST_F(CallMetricsTest, DeclaredSeriesStandAtZero) {
  const std::string text = metrics_.Scrape();
  for (const char* code : {"OK", "UNAVAILABLE", "other"})
    EXPECT_THAT(text, HasSubstr(CountOf(code, "Ask", 0)));
  for (const char* method : {"Tell", "other"}) {
    for (const char* code : {"OK", "other"}) EXPECT_THAT(text, HasSubstr(CountOf(code, method, 0)));
  }
}

TEST_F(CallMetricsTest, CallsAreTimedByMethodAndCode) {
  calls_.Observe("/a.B/Ask", grpc::StatusCode::OK, absl::Milliseconds(250));
  calls_.Observe("/a.B/Ask", grpc::StatusCode::OK, absl::Milliseconds(500));
  calls_.Observe("/a.B/Ask", grpc::StatusCode::UNAVAILABLE, absl::Seconds(1));
  const std::string text = metrics_.Scrape();
  EXPECT_THAT(text, HasSubstr(CountOf("OK", "Ask", 2)));
  EXPECT_THAT(text, HasSubstr(CountOf("UNAVAILABLE", "Ask", 1)));
  EXPECT_THAT(text, HasSubstr("tandem_rpc_server_duration_seconds_sum{code=\"OK\",method=\"Ask\"} 0.75"));
}

TEST_F(CallMetricsTest, WhatAPeerMakesUpIsOther) {
  const int series = metrics_.num_series();
  calls_.Observe("/a.B/Ask", grpc::StatusCode::DATA_LOSS, absl::Seconds(1));
  calls_.Observe("/a.B/Ask", static_cast<grpc::StatusCode>(77), absl::Seconds(1));
  calls_.Observe("/x.Y/Ask", grpc::StatusCode::OK, absl::Seconds(1));
  calls_.Observe("", grpc::StatusCode::UNIMPLEMENTED, absl::Seconds(1));
  const std::string text = metrics_.Scrape();
  EXPECT_THAT(text, HasSubstr(CountOf("other", "Ask", 2)));
  EXPECT_THAT(text, HasSubstr(CountOf("OK", "other", 1)));
  EXPECT_THAT(text, HasSubstr(CountOf("other", "other", 1)));
  EXPECT_THAT(text, Not(HasSubstr("DATA_LOSS")));
  EXPECT_EQ(metrics_.num_series(), series);
}

}  // namespace
}  // namespace tandem::rpc
