#include "common/base/option_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(OptionFile, ReadsEveryKindOfValue) {
  const auto entries = ParseOptionFile(
      "# a comment\n"
      "model = \"a \\\"b\\\" # c\\u00e9\"  # not part of it\n"
      "path = 'C:\\x'\r\n"
      "\n"
      "threads=2\n"
      "kv_bytes = 1_000\n"
      "ratio = -1.5e3\n"
      "prefix-cache = false\n"
      "names = [ \"x\", 'y',  # and\n"
      "  3, ]\n"
      "none = []");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 8u);
  EXPECT_THAT((*entries)[0].values, ElementsAre("a \"b\" # c\xc3\xa9"));
  EXPECT_THAT((*entries)[1].values, ElementsAre("C:\\x"));
  EXPECT_THAT((*entries)[2].values, ElementsAre("2"));
  EXPECT_EQ((*entries)[3].name, "kv-bytes");
  EXPECT_THAT((*entries)[3].values, ElementsAre("1000"));
  EXPECT_THAT((*entries)[4].values, ElementsAre("-1.5e3"));
  EXPECT_THAT((*entries)[5].values, ElementsAre("false"));
  EXPECT_TRUE((*entries)[6].is_array);
  EXPECT_THAT((*entries)[6].values, ElementsAre("x", "y", "3"));
  EXPECT_EQ((*entries)[6].line, 9);
  EXPECT_THAT((*entries)[7].values, IsEmpty());
}

TEST(OptionFile, NamesTheLineOfAnError) {
  const std::pair<const char*, const char*> cases[] = {
      {"a = 1\n[table]\n", "line 2: tables are not supported, write name = value"},
      {"a = 1\na = 2\n", "line 2: 'a' comes twice"},
      {"kv-bytes = 1\nkv_bytes = 2\n", "line 2: 'kv-bytes' comes twice"},
      {"a\n", "line 1: expected = after 'a'"},
      {"a = smollm\n", "line 1: 'smollm' is no number or boolean; strings need quotes"},
      {"a = \"x\n", "line 1: the string has no end"},
      {"a = 'x\n", "line 1: the string has no end"},
      {"a = \"\\q\"", "line 1: unknown escape in a string"},
      {"a = \"\\u12\"", "line 1: \\u needs four hex digits"},
      {"a = \"\\ud800\"", "line 1: \\ud800 is no character"},
      {"a = 1 2\n", "line 1: unexpected text after the value of 'a'"},
      {"a = [1 2]\n", "line 1: expected , or ] in the array"},
      {"a = [1,\n\n", "line 3: expected a value"},
      {"= 1\n", "line 1: expected a name"},
      {"a =\n", "line 1: expected a value"},
  };
  for (const auto& [text, message] : cases) {
    EXPECT_EQ(ParseOptionFile(text).status().message(), message) << text;
  }
}

}  // namespace
}  // namespace tandem
