#include "gateway/errors.h"

#include <limits>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

using ::testing::HasSubstr;

TEST(ErrorsTest, OutOfRangeNamesFieldRangeAndValue) {
  const absl::Status status = error::OutOfRange("temperature", "0..2", 3.5);
  EXPECT_EQ(status.message(), "temperature must be in 0..2, got 3.5");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), ErrorReason::kValidation);
  EXPECT_EQ(ParamOf(status), "temperature");
  EXPECT_EQ(HttpStatusOf(status), 400);
  EXPECT_STREQ(HttpErrorCodeOf(status), "invalid_value");
  EXPECT_STREQ(HttpErrorTypeOf(status), "invalid_request_error");
  EXPECT_FALSE(RetryAfterOf(status).has_value());
  EXPECT_EQ(error::OutOfRange("x", "0..1", std::numeric_limits<double>::quiet_NaN()).message(),
            "x must be in 0..1, got nan");
}

TEST(ErrorsTest, OverloadCarriesRetryAfterBetweenOneSecondAndAMinute) {
  const absl::Status status = error::QueueFull(256, absl::Milliseconds(1200));
  EXPECT_EQ(status.message(), "queue is full (256), retry in 2 s");
  EXPECT_EQ(RetryAfterOf(status), absl::Seconds(2));
  EXPECT_EQ(HttpStatusOf(status), 429);
  EXPECT_STREQ(HttpErrorTypeOf(status), "rate_limit_error");
  EXPECT_EQ(RetryAfterOf(error::NoBackend(absl::ZeroDuration())), absl::Seconds(1));
  EXPECT_EQ(RetryAfterOf(error::Draining(absl::InfiniteDuration())), absl::Seconds(60));
  EXPECT_STREQ(HttpErrorTypeOf(error::Starting(absl::Seconds(3))), "server_error");
}

TEST(ErrorsTest, EveryReasonHasItsOwnNameAndRoundTrips) {
  std::set<std::string> names;
  for (int i = 0; i < kNumErrorReasons; ++i) names.insert(ErrorReasonName(static_cast<ErrorReason>(i)));
  EXPECT_EQ(names.size(), static_cast<size_t>(kNumErrorReasons));
  EXPECT_EQ(ReasonOf(error::QuotaExceeded(256, absl::Seconds(1))), ErrorReason::kQuota);
  EXPECT_EQ(ReasonOf(error::KvFull(absl::Seconds(1))), ErrorReason::kKvFull);
  EXPECT_EQ(ReasonOf(error::WriteStalled(absl::Seconds(30))), ErrorReason::kWriteStall);
  EXPECT_EQ(ReasonOf(error::Corrupt("r")), ErrorReason::kCorrupt);
}

TEST(ErrorsTest, StatusOfALibraryGetsTheReasonOfItsCode) {
  EXPECT_EQ(ReasonOf(absl::InvalidArgumentError("x")), ErrorReason::kValidation);
  EXPECT_EQ(ReasonOf(absl::UnavailableError("x")), ErrorReason::kNoBackend);
  EXPECT_EQ(ReasonOf(absl::AlreadyExistsError("x")), ErrorReason::kInternal);
}

TEST(ErrorsTest, HttpStatusTellsRoutesMethodsAndEncodingsApart) {
  EXPECT_EQ(HttpStatusOf(error::RouteNotFound("/x")), 404);
  EXPECT_EQ(HttpStatusOf(error::MethodNotAllowed("PUT")), 405);
  EXPECT_EQ(HttpStatusOf(error::EncodingNotSupported("gzip")), 415);
  EXPECT_EQ(HttpStatusOf(error::BodyTooLarge(2097152)), 413);
  EXPECT_EQ(HttpStatusOf(error::HeadersTooLarge(1)), 431);
  EXPECT_EQ(HttpStatusOf(error::RequestIncomplete(absl::Seconds(30))), 408);
  EXPECT_EQ(HttpStatusOf(error::Cancelled()), 499);
  EXPECT_EQ(error::DeadlineExceeded(absl::Minutes(10)).message(), "deadline exceeded after 600 s");
  EXPECT_TRUE(ForbidsRetry(error::DeadlineExceeded(absl::Minutes(10))));
  EXPECT_TRUE(ForbidsRetry(error::InternalError("r")));
  EXPECT_FALSE(ForbidsRetry(error::BackendLost(37)));
}

TEST(ErrorsTest, ValuesAreCutAndEscaped) {
  EXPECT_EQ(EscapedValue("caf\u00e9"), "caf\u00e9");
  EXPECT_EQ(EscapedValue("a\nb\"c\\"), "a\\x0ab\\x22c\\x5c");
  EXPECT_EQ(EscapedValue("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(EscapedValue("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // a lone surrogate
  EXPECT_EQ(EscapedValue(std::string(64, 'x')), std::string(64, 'x'));
  EXPECT_EQ(EscapedValue(std::string(1 << 20, 'x')), std::string(64, 'x') + "...");
  EXPECT_EQ(EscapedValue(std::string(63, 'x') + "\u00e9"), std::string(63, 'x') + "...");
  const absl::Status status = error::ModelNotFound(std::string(1 << 20, '\n'));
  EXPECT_LT(status.message().size(), 200u);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\\x0a"));
}

}  // namespace
}  // namespace tandem::gateway
