#include "gateway/admission/stop_matcher.h"

#include "gateway/admission/fake_text.h"
#include "gateway/admission/text_stream.h"
#include "gtest/gtest.h"

namespace tandem::gateway {
namespace {

// Pushes `text` in pieces of `size` bytes; returns what came out, "|" where it stopped.
std::string Matched(std::vector<std::string> stops, const std::string& text, size_t size) {
  StopMatcher matcher(std::move(stops));
  std::string out;
  for (size_t i = 0; i < text.size(); i += size) {
    if (matcher.Push(text.substr(i, size), out)) return out + "|";
  }
  matcher.Flush(out);
  return out;
}

TEST(StopMatcherTest, TextEndsBeforeTheStopTextHoweverItIsCut) {
  const std::string text = "one two END three END";
  for (size_t size = 1; size <= text.size(); ++size) {
    EXPECT_EQ(Matched({"END"}, text, size), "one two |") << size;
    EXPECT_EQ(Matched({"ENDE"}, text, size), text) << size;
    EXPECT_EQ(Matched({}, text, size), text) << size;
    EXPECT_EQ(Matched({"three", "two END"}, text, size), "one |") << size;
    EXPECT_EQ(Matched({"D t", "END three"}, text, size), "one two EN|") << size;  // ends earlier
    EXPECT_EQ(Matched({"D", "END"}, text, size), "one two |") << size;            // end together: the longest
    EXPECT_EQ(Matched({"aab"}, "aaab", 1), "a|");
  }
}

TEST(StopMatcherTest, HoldsBackOnlyWhatMayStillMatch) {
  StopMatcher matcher({"</s>", "\n\nUser"});
  std::string out;
  EXPECT_FALSE(matcher.Push("abc<", out));
  EXPECT_EQ(out, "abc");
  EXPECT_FALSE(matcher.Push("/", out));
  EXPECT_EQ(out, "abc");
  EXPECT_FALSE(matcher.Push("p>\n", out));
  EXPECT_EQ(out, "abc</p>");
  EXPECT_FALSE(matcher.Push("\nU", out));
  EXPECT_EQ(out, "abc</p>");
  matcher.Flush(out);
  EXPECT_EQ(out, "abc</p>\n\nU");
}

TEST(TextStreamTest, CharactersAcrossTokensComeWholeAndStopsAcrossThemMatch) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, {"\u00e9\u00e8"}, 0);
  std::string out;
  for (const unsigned char c : std::string("caf\u00e9")) EXPECT_FALSE(stream.Push(c, out));
  EXPECT_EQ(out, "caf");  // the character may begin the stop text
  EXPECT_FALSE(stream.Push(0xC3, out));
  EXPECT_EQ(out, "caf");
  EXPECT_TRUE(stream.Push(0xA8, out));
  EXPECT_EQ(out, "caf");
}

TEST(TextStreamTest, FinishReleasesHalfACharacterAsOneReplacement) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, {"xyz"}, 0);
  std::string out;
  stream.Push('x', out);
  stream.Push(0xC3, out);
  EXPECT_FALSE(stream.Finish(out));
  EXPECT_EQ(out, "x\uFFFD");
  TextStream stops_at_replacement(tokenizer, {"\uFFFD"}, 0);
  out.clear();
  stops_at_replacement.Push('a', out);
  stops_at_replacement.Push(0xC3, out);
  EXPECT_TRUE(stops_at_replacement.Finish(out));
  EXPECT_EQ(out, "a");
}

TEST(TextStreamTest, FirstMinTokensAreNotSearched) {
  const ByteTokenizer tokenizer;
  TextStream stream(tokenizer, {"a"}, 2);
  std::string out;
  EXPECT_FALSE(stream.Push('a', out));
  EXPECT_FALSE(stream.Push('a', out));
  EXPECT_EQ(out, "aa");
  EXPECT_TRUE(stream.Push('a', out));
  EXPECT_EQ(out, "aa");
}

}  // namespace
}  // namespace tandem::gateway
