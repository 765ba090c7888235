// Tokenizers from GGUF metadata: what the files say, and what they leave to the reader.
#include "common/text/tokenizer_gguf.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/formats/test_files.h"
#include "common/text/byte_level.h"
#include "common/text/tokenizer.h"

namespace tandem::text {
namespace {

using formats::GgufContents;
using formats::GgufValue;
using formats::MemoryGguf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kNormal = 1, kControl = 3, kUserDefined = 4, kByte = 6;

struct Vocab {
  std::vector<std::string> tokens;
  std::vector<int64_t> types;
  std::vector<double> scores;

  void Add(const std::string& text, int64_t type, double score = 0) {
    tokens.push_back(text);
    types.push_back(type);
    scores.push_back(score);
  }
  void PutInto(GgufContents& contents) const {
    contents.metadata["tokenizer.ggml.tokens"] = tokens;
    contents.metadata["tokenizer.ggml.token_type"] = types;
    contents.metadata["tokenizer.ggml.scores"] = scores;
  }
};

// Ids 0..255 are bytes; 256: U+2581, a, b, c; 260: <bos>; 261: two spaces; then what scores make.
GgufContents SentencePiece() {
  Vocab vocab;
  for (int byte = 0; byte < 256; ++byte) vocab.Add(fmt::format("<0x{:02X}>", byte), kByte);
  for (const char* text : {"\u2581", "a", "b", "c"}) vocab.Add(text, kNormal, -100);
  vocab.Add("<bos>", kControl);
  vocab.Add("  ", kUserDefined, -1000);
  vocab.Add("bc", kNormal, -1);
  vocab.Add("ab", kNormal, -2);
  vocab.Add("aa", kNormal, -3);
  vocab.Add("cb", kNormal, -3);
  GgufContents contents;
  contents.metadata = {{"tokenizer.ggml.model", std::string("llama")},
                       {"tokenizer.ggml.add_space_prefix", false},
                       {"tokenizer.ggml.bos_token_id", uint64_t{260}}};
  vocab.PutInto(contents);
  return contents;
}

// Ids 0..255 are the bytes; 256: ab, 257: abc; 258: <bos>.
GgufContents ByteLevel(const std::string& pre) {
  Vocab vocab;
  for (int byte = 0; byte < 256; ++byte) vocab.Add(ByteLevelAlphabet()[byte], kNormal);
  vocab.Add("ab", kNormal);
  vocab.Add("abc", kNormal);
  vocab.Add("<bos>", kControl);
  GgufContents contents;
  contents.metadata = {{"tokenizer.ggml.model", std::string("gpt2")},
                       {"tokenizer.ggml.pre", pre},
                       {"tokenizer.ggml.merges", std::vector<std::string>{"a b"}},
                       {"tokenizer.ggml.bos_token_id", uint64_t{258}}};
  vocab.PutInto(contents);
  return contents;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(GgufContents contents) {
  return Tokenizer::FromGguf(MemoryGguf(std::move(contents)));
}

std::vector<int32_t> Encode(const GgufContents& contents, const std::string& text) {
  const auto tokenizer = Load(contents);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  if (!tokenizer.ok()) return {};
  const auto ids = (*tokenizer)->Encode(text, true);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>());
}

TEST(GgufTokenizer, HigherScoresMergeFirstAndTheLeftmostAmongEquals) {
  EXPECT_THAT(Encode(SentencePiece(), "abc"), ElementsAre(257, 262));
  EXPECT_THAT(Encode(SentencePiece(), "ab"), ElementsAre(263));
  EXPECT_THAT(Encode(SentencePiece(), "aaa"), ElementsAre(264, 257));
  EXPECT_THAT(Encode(SentencePiece(), "cbc"), ElementsAre(259, 262));
}

TEST(GgufTokenizer, TokensOfRealSpacesAreAddedTokens) {
  EXPECT_THAT(Encode(SentencePiece(), "a  b c"), ElementsAre(257, 261, 258, 256, 259));
  EXPECT_THAT(Encode(SentencePiece(), "a \u2581b"), ElementsAre(257, 261, 258));
  EXPECT_THAT(Encode(SentencePiece(), "<bos>\n"), ElementsAre(260, 10));
  EXPECT_EQ((*Load(SentencePiece()))->TokenBytes(261), "  ");
}

TEST(GgufTokenizer, WhatFilesLeaveUnsaidFollowsFromTheTokenizer) {
  // BOS before prompts: usual with scores and for Llama 3, not elsewhere; the key decides where it is there.
  EXPECT_THAT((*Load(SentencePiece()))->prompt_prefix(), ElementsAre(260));
  EXPECT_THAT((*Load(ByteLevel("llama-bpe")))->prompt_prefix(), ElementsAre(258));
  EXPECT_THAT((*Load(ByteLevel("qwen2")))->prompt_prefix(), IsEmpty());
  GgufContents without = SentencePiece();
  without.metadata["tokenizer.ggml.add_bos_token"] = false;
  EXPECT_THAT((*Load(without))->prompt_prefix(), IsEmpty());
  // Words that are tokens need no merges in Llama 3.
  EXPECT_THAT(Encode(ByteLevel("llama-bpe"), "abc"), ElementsAre(257));
  EXPECT_THAT(Encode(ByteLevel("llama3"), "abc"), ElementsAre(257));
  EXPECT_THAT(Encode(ByteLevel("qwen2"), "abc"), ElementsAre(256, 'c'));
  // Qwen's text is normalised.
  EXPECT_THAT(Encode(ByteLevel("qwen2"), "e\u0301"), ElementsAre(0xc3, 0xa9));
  EXPECT_THAT(Encode(ByteLevel("llama-bpe"), "e\u0301"), ElementsAre('e', 0xcc, 0x81));
}

struct BadFile {
  const char* key;
  GgufValue value;
  absl::StatusCode code;
  const char* message;
};

TEST(GgufTokenizer, RefusesHostileOrUnknownSentencePieceFiles) {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnknown = absl::StatusCode::kUnimplemented;
  Vocab few;
  few.Add("a", kNormal);
  std::vector<double> nan(266), short_scores(5);
  nan[257] = std::numeric_limits<double>::quiet_NaN();
  std::vector<int64_t> types(266, kNormal), bad_type(266, 7);
  std::vector<std::string> twice(266, "x");
  std::vector<std::string> bad_byte =
      std::get<std::vector<std::string>>(SentencePiece().metadata["tokenizer.ggml.tokens"]);
  std::vector<std::string> long_token = bad_byte;
  bad_byte[3] = "<0xZZ>";
  long_token[262] = std::string(600, 'b');
  const BadFile files[] = {
      {"tokenizer.ggml.model", std::string("t5"), kUnknown, "tokenizer.ggml.model `t5`"},
      {"tokenizer.ggml.add_space_prefix", true, kUnknown, "add_space_prefix is not supported"},
      {"tokenizer.ggml.add_eos_token", true, kUnknown, "add_eos_token"},
      {"tokenizer.ggml.scores", std::string("x"), kBad, "tokenizer.ggml.scores is no array"},
      {"tokenizer.ggml.scores", short_scores, kBad, "scores has 5 items for 266 tokens"},
      {"tokenizer.ggml.scores", nan, kBad, "score of token 257 is not finite"},
      {"tokenizer.ggml.token_type", types, kBad, "byte 0 has no token <0x00>"},
      {"tokenizer.ggml.token_type", bad_type, kBad, "token_type[0] is 7, not a type of llama tokenizers"},
      {"tokenizer.ggml.tokens", few.tokens, kBad, "266 items for 1 tokens"},
      {"tokenizer.ggml.tokens", twice, kBad, "byte token 0 is `x`"},
      {"tokenizer.ggml.tokens", bad_byte, kBad, "byte token 3 is `<0xZZ>`"},
      {"tokenizer.ggml.tokens", long_token, kBad, "token 262 has 600 bytes"},
      {"tokenizer.ggml.bos_token_id", uint64_t{266}, kBad, "bos_token_id 266"},
  };
  for (const BadFile& file : files) {
    SCOPED_TRACE(file.message);
    GgufContents contents = SentencePiece();
    contents.metadata[file.key] = file.value;
    const auto tokenizer = Load(std::move(contents));
    EXPECT_EQ(tokenizer.status().code(), file.code) << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(file.message));
  }
  GgufContents contents = SentencePiece();
  contents.metadata.erase("tokenizer.ggml.add_space_prefix");
  EXPECT_THAT(std::string(Load(std::move(contents)).status().message()),
              HasSubstr("add_space_prefix (true where absent)"));
}

TEST(GgufTokenizer, NamesAnUnknownPreTokenizer) {
  const auto tokenizer = Load(ByteLevel("mystery"));
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(tokenizer.status().message()),
              HasSubstr("tokenizer.ggml.pre: pre-tokenizer `mystery`"));
}

}  // namespace
}  // namespace tandem::text
