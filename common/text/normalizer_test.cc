#include "common/text/normalizer.h"

#include <gtest/gtest.h>

#include <ctime>

#include "common/text/nfc.h"

namespace tandem::text {
namespace {

TEST(Nfc, ComposesAndOrdersAsUnicodeSays) {
  struct Case {
    const char* text;
    const char* normalized;
  };
  const Case cases[] = {
      {"e\u0301", "\u00e9"},
      {"\u212b", "\u00c5"},               // a singleton: ANGSTROM SIGN
      {"\u1112\u1161\u11ab", "\ud55c"},   // Hangul
      {"\ud558\u11ab", "\ud55c"},         // a syllable and one more jamo
      {"a\u0301\u0323", "\u1ea1\u0301"},  // marks of two classes change places
      {"a\u0301\u0300", "\u00e1\u0300"},  // marks of one class do not
      {"a\u0315\u0300\u05ae\u0300b",
       "\u00e0\u05ae\u0300\u0315"
       "b"},                       // from Unicode's own test file
      {"\u0958", "\u0915\u093c"},  // excluded from composition
      {"\u0344", "\u0308\u0301"},
      {"\u1f82", "\u1f82"},              // stands for four characters
      {"\u0301\u0323", "\u0323\u0301"},  // nothing to compose with
      {"plain \U0001F600", "plain \U0001F600"},
      {"", ""},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(ToNfc(c.text), c.normalized) << c.text;
    EXPECT_EQ(ToNfc(c.normalized), c.normalized) << c.text;
  }
}

TEST(Nfc, LongRunsOfMarksTakeNoQuadraticTime) {
  std::string text = "a", ordered = "\u1ea1";
  const int n = 300'000;
  for (int i = 0; i < n; ++i) text += "\u0301\u0323";
  for (int i = 1; i < n; ++i) ordered += "\u0323";
  for (int i = 0; i < n; ++i) ordered += "\u0301";
  const std::clock_t start = std::clock();  // CPU time
  EXPECT_TRUE(ToNfc(text) == ordered);
  EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 20);
}

TEST(Normalizer, ReturnsTheTextItselfWhereNothingChanges) {
  std::string storage;
  for (const NormalizerKind kind :
       {NormalizerKind::kNone, NormalizerKind::kNfc, NormalizerKind::kSpaceMarks}) {
    for (const std::string_view text : {"", "plain", "\u00e9", "\u4e2d\u6587"}) {
      EXPECT_EQ(Normalize(kind, text, &storage).data(), text.data()) << text;
    }
  }
}

TEST(Normalizer, MarksSpacesAndTakesMarksAway) {
  std::string storage;
  EXPECT_EQ(Normalize(NormalizerKind::kSpaceMarks, " a  b\n", &storage), "\u2581a\u2581\u2581b\n");
  EXPECT_EQ(SpacesFromMarks("\u2581a\u2581\u2581b\u2580"), " a  b\u2580");
}

}  // namespace
}  // namespace tandem::text
