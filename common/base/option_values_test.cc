#include "common/base/option_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem {
namespace {

using ::testing::HasSubstr;

TEST(ParseBytes, ReadsPlainNumbersAndUnits) {
  EXPECT_EQ(*ParseBytes("0"), 0);
  EXPECT_EQ(*ParseBytes("4096"), 4096);
  EXPECT_EQ(*ParseBytes("7B"), 7);
  EXPECT_EQ(*ParseBytes("2KB"), 2000);
  EXPECT_EQ(*ParseBytes("2KiB"), 2048);
  EXPECT_EQ(*ParseBytes("512MiB"), 512ll << 20);
  EXPECT_EQ(*ParseBytes("1.5GiB"), 3ll << 29);
  EXPECT_EQ(*ParseBytes("9223372036854775807"), INT64_MAX);
}

TEST(ParseBytes, RefusesEverythingElse) {
  for (const char* text : {"", "MiB", "-1", "1 MiB", "1mib", "1K", "0x10", "1e3", "1..5",
                           "9223372036854775808", "99999999TiB", "nan", "inf", "1MiB "}) {
    EXPECT_FALSE(ParseBytes(text).ok()) << text;
  }
  EXPECT_THAT(ParseBytes("12 parsecs").status().message(), HasSubstr("got '12 parsecs'"));
}

TEST(ParseDuration, NeedsAUnitAndIsNotNegative) {
  EXPECT_EQ(*ParseDuration("250ms"), absl::Milliseconds(250));
  EXPECT_EQ(*ParseDuration("1h30m"), absl::Minutes(90));
  EXPECT_EQ(*ParseDuration("0"), absl::ZeroDuration());
  for (const char* text : {"", "5", "-5s", "inf", "1 s", "s", "1e400s"})
    EXPECT_FALSE(ParseDuration(text).ok()) << text;
}

TEST(ParseNumber, IsFiniteAndWhole) {
  EXPECT_EQ(*ParseNumber("-1.5e3"), -1500);
  for (const char* text : {"", "nan", "inf", "1e999", "1,5", "1 ", "0x1"})
    EXPECT_FALSE(ParseNumber(text).ok()) << text;
  for (const char* text : {"", "1.0", "9223372036854775808", "+1", " 1"})
    EXPECT_FALSE(ParseInteger(text).ok()) << text;
}

TEST(ParseAddress, RoundTrips) {
  for (const char* text :
       {"127.0.0.1:8011", "localhost:0", "[::1]:80", "unix:/run/tandem.sock", "a-b.example:65535"}) {
    const absl::StatusOr<Address> address = ParseAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->ToString(), text);
  }
  EXPECT_EQ(ParseAddress("[::1]:80")->host, "::1");
}

TEST(ParseAddress, RefusesWhatIsNoAddress) {
  for (const std::string& text :
       {std::string(""), std::string("8011"), std::string(":8011"), std::string("host:"),
        std::string("host:65536"), std::string("host:-1"), std::string("host:80x"), std::string("::1:80"),
        std::string("[]:80"), std::string("[::1:80"), std::string("ho st:80"), std::string("unix:"),
        "unix:/" + std::string(107, 'x'), std::string("unix:/a\0b", 9), std::string("http://h:80")}) {
    EXPECT_FALSE(ParseAddress(text).ok()) << text;
  }
}

TEST(Address, KnowsWhetherItIsLocal) {
  EXPECT_TRUE(ParseAddress("127.0.0.1:1")->is_local());
  EXPECT_TRUE(ParseAddress("[::1]:1")->is_local());
  EXPECT_TRUE(ParseAddress("unix:x")->is_local());
  EXPECT_FALSE(ParseAddress("0.0.0.0:1")->is_local());
  EXPECT_FALSE(ParseAddress("127.example.org:1")->is_local());
}

}  // namespace
}  // namespace tandem
