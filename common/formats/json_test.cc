#include "common/formats/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::formats {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(std::string_view text, const JsonLimits& limits = {}) {
  const auto parsed = ParseJson(text, limits);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 80);
  return std::string(parsed.status().message());
}

std::string Nested(size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

TEST(ParseJson, BuildsTheSameDocumentAsTheLibrary) {
  const std::string text =
      R"( {"a": [1, -2, 3.5, true, null, "x\u00e9"], "b": {"c": {}, "d": []}, "": [[{"e": 1}], 2]} )";
  const auto parsed = ParseJson(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, nlohmann::json::parse(text));
  EXPECT_EQ(*ParseJson("7"), 7);
}

TEST(ParseJson, BoundsDepth) {
  EXPECT_TRUE(ParseJson(Nested(5), {.max_depth = 5}).ok());
  EXPECT_THAT(ErrorOf(Nested(6), {.max_depth = 5}), HasSubstr("more than 5 deep"));
  EXPECT_THAT(ErrorOf(std::string(10'000'000, '[')), HasSubstr("more than 32 deep"));
}

TEST(ParseJson, BoundsTheNumberOfValues) {
  EXPECT_TRUE(ParseJson("[1, 2, 3]", {.max_values = 4}).ok());
  EXPECT_THAT(ErrorOf("[1, 2, 3, 4]", {.max_values = 4}), HasSubstr("more than 4 values"));
}

TEST(ParseJson, RefusesWhatIsNotExactlyOneDocument) {
  using std::string_view_literals::operator""sv;
  for (const std::string_view text : {""sv, " "sv, "{"sv, "{}x"sv, "{} {}"sv, "{\"a\": 1,}"sv, "[1e999]"sv,
                                      "NaN"sv, "\"\xff\""sv, "{}\0{}"sv, "[\0]"sv}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("not valid JSON")) << text;
  }
}

TEST(ParseJson, RefusesRepeatedKeysInOneObjectOnly) {
  EXPECT_THAT(ErrorOf(R"({"a": {"b": 1, "c": 2, "b": 3}})"), HasSubstr("`b` is given twice"));
  EXPECT_THAT(ErrorOf(R"({"a": null, "a": null})"), HasSubstr("`a` is given twice"));
  EXPECT_TRUE(ParseJson(R"([{"a": 1}, {"a": 2}, {"b": {"a": 3}, "a": 4}])").ok());
}

}  // namespace
}  // namespace tandem::formats
