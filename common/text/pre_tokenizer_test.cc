#include "common/text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem::text {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Words(PreTokenizerKind kind, const std::string& text) {
  const auto pre_tokenizer = PreTokenizer::Create(kind);
  EXPECT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  std::vector<std::string_view> words;
  const absl::Status status = pre_tokenizer->Split(text, &words);
  EXPECT_TRUE(status.ok()) << status;
  return {words.begin(), words.end()};
}

TEST(PreTokenizer, CutsNumbersAsEachFamilyDoes) {
  EXPECT_THAT(Words(PreTokenizerKind::kGpt2, "a 1234"), ElementsAre("a", " 1234"));
  EXPECT_THAT(Words(PreTokenizerKind::kSmolLm, "a  12"), ElementsAre("a", "  ", "1", "2"));
  EXPECT_THAT(Words(PreTokenizerKind::kQwen2, "a 1234.5"),
              ElementsAre("a", " ", "1", "2", "3", "4", ".", "5"));
  EXPECT_THAT(Words(PreTokenizerKind::kLlama3, "a 1234.5\u00bd"),
              ElementsAre("a", " ", "123", "4", ".", "5\u00bd"));
}

TEST(PreTokenizer, QwenAndLlama3KeepWordsWithWhatStandsBeforeThem) {
  for (const PreTokenizerKind kind : {PreTokenizerKind::kQwen2, PreTokenizerKind::kLlama3}) {
    EXPECT_THAT(Words(kind, "I'LL(pay (\n\n  OK  x\n"),
                ElementsAre("I", "'LL", "(pay", " (\n\n", " ", " OK", " ", " x", "\n"));
    EXPECT_THAT(Words(kind, "a?!\n\nb"), ElementsAre("a", "?!\n\n", "b"));
    EXPECT_THAT(Words(kind, "\u4f60\u597d\u3000x "), ElementsAre("\u4f60\u597d", "\u3000x", " "));
  }
  EXPECT_THAT(Words(PreTokenizerKind::kGpt2, "I'LL (pay"), ElementsAre("I", "'", "LL", " (", "pay"));
}

TEST(PreTokenizer, FindsNamesOfGgufFiles) {
  for (const auto& [name, kind] : {std::pair{"gpt-2", PreTokenizerKind::kGpt2},
                                   {"smollm", PreTokenizerKind::kSmolLm},
                                   {"qwen2", PreTokenizerKind::kQwen2},
                                   {"llama-bpe", PreTokenizerKind::kLlama3},
                                   {"llama3", PreTokenizerKind::kLlama3},
                                   {"llama-v3", PreTokenizerKind::kLlama3}}) {
    const auto found = FindPreTokenizer(name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, kind) << name;
  }
  EXPECT_EQ(FindPreTokenizer("").status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace tandem::text
