// Tokenizers of the SentencePiece kind, from tokenizer.json. GGUF files: tokenizer_gguf_test.cc.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "common/text/detokenizer.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace tandem::text {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Ids 0..255 are bytes, 256.. the characters _ a b > < (where _ is U+2581), then what merges make, then added
// tokens.
constexpr int kSpace = 256, kA = 257, kB = 258, kFirstMerge = 261;
constexpr const char* kChars[] = {"\u2581", "a", "b", ">", "<"};
const std::vector<std::pair<std::string, std::string>> kMerges = {
    {"\u2581", "\u2581"}, {"a", "b"}, {"\u2581", "ab"}, {"ab", "ab"}, {">", "\u2581"},
    {">\u2581", "<"},     {"b", "a"}, {"\u2581", "a"},  {"ba", "ba"}, {"<", "<"}};

json Description() {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = byte;
  for (const char* text : kChars) vocab[text] = vocab.size();
  json merges = json::array();
  for (const auto& [left, right] : kMerges) {
    if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
    merges.push_back({left, right});
  }
  const int n = vocab.size();
  return json{{"model",
               {{"type", "BPE"},
                {"byte_fallback", true},
                {"unk_token", "<unk>"},
                {"vocab", vocab},
                {"merges", merges}}},
              {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}},
              {"decoder",
               {{"type", "Sequence"},
                {"decoders",
                 {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                  {{"type", "ByteFallback"}},
                  {{"type", "Fuse"}}}}}},
              {"added_tokens",
               {{{"id", n}, {"content", "<bos>"}, {"special", true}, {"normalized", false}},
                {{"id", n + 1}, {"content", "x\u2581y"}, {"special", false}, {"normalized", false}},
                {{"id", n + 2}, {"content", "p q"}, {"special", false}, {"normalized", true}}}}};
}

std::unique_ptr<Tokenizer> Load(const json& description) {
  auto tokenizer = Tokenizer::FromJson(description.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, const std::string& text, bool special = false) {
  const auto ids = tokenizer.Encode(text, special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>());
}

std::string Decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Detokenizer detokenizer(tokenizer, false);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Finish();
}

TEST(SentencePiece, SpacesBecomeMarksAndComeBack) {
  const auto tokenizer = Load(Description());
  const int double_space = kFirstMerge, ab = kFirstMerge + 1, space_ab = kFirstMerge + 2;
  EXPECT_THAT(Encode(*tokenizer, "ab ab"), ElementsAre(ab, space_ab));
  EXPECT_THAT(Encode(*tokenizer, " b"), ElementsAre(kSpace, kB));
  EXPECT_THAT(Encode(*tokenizer, "   ab"), ElementsAre(double_space, space_ab));
  EXPECT_THAT(Encode(*tokenizer, "\u2581"), ElementsAre(kSpace));
  EXPECT_EQ(Decode(*tokenizer, Encode(*tokenizer, "a \u2581b")), "a  b");
}

TEST(SentencePiece, CharactersWithoutATokenBecomeTheirBytes) {
  const auto tokenizer = Load(Description());
  EXPECT_THAT(Encode(*tokenizer, "a\u00e9"), ElementsAre(kA, 0xc3, 0xa9));
  EXPECT_EQ(Decode(*tokenizer, Encode(*tokenizer, "\U0001F600 caf\u00e9\n")), "\U0001F600 caf\u00e9\n");
  // The name of a byte token is text like any other.
  EXPECT_EQ(Encode(*tokenizer, "<0x0A>").size(), 6u);
  EXPECT_EQ(tokenizer->TokenBytes(10), "\n");
  EXPECT_FALSE(tokenizer->IsSpecial(10));
}

TEST(SentencePiece, AddedTokensAreFoundBeforeNormalisationOrAfterIt) {
  const auto tokenizer = Load(Description());
  const int n = tokenizer->vocab_size() - 3;
  EXPECT_THAT(Encode(*tokenizer, "<bos>a", true), ElementsAre(n, kA));
  EXPECT_EQ(Encode(*tokenizer, "<bos>").front(), *tokenizer->FindToken("<"));
  EXPECT_THAT(Encode(*tokenizer, "x\u2581y"), ElementsAre(n + 1));
  EXPECT_EQ(Encode(*tokenizer, "x y").size(), 3u);
  EXPECT_EQ(tokenizer->TokenBytes(n + 1), "x y");
  EXPECT_THAT(Encode(*tokenizer, "p q"), ElementsAre(n + 2));
  EXPECT_THAT(Encode(*tokenizer, "p\u2581q"), ElementsAre(n + 2));
}

// The definition, in quadratic time: over the whole text the lowest-ranked pair, the leftmost among equals.
std::vector<std::string> MergeNaively(std::vector<std::string> symbols) {
  while (true) {
    size_t best = kMerges.size(), best_at = 0;
    for (size_t at = 0; at + 1 < symbols.size(); ++at) {
      for (size_t rank = 0; rank < best; ++rank) {
        if (kMerges[rank].first == symbols[at] && kMerges[rank].second == symbols[at + 1]) {
          best = rank;
          best_at = at;
        }
      }
    }
    if (best == kMerges.size()) return symbols;
    symbols[best_at] += symbols[best_at + 1];
    symbols.erase(symbols.begin() + best_at + 1);
  }
}

TEST(SentencePiece, MergesAsIfTheTextWereOneWord) {
  const auto tokenizer = Load(Description());
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::string> symbols;
    std::string text;
    for (int n = random() % (round % 2 == 0 ? 12 : 100); n > 0; --n) {
      text += symbols.emplace_back(kChars[random() % std::size(kChars)]);
    }
    std::vector<int32_t> expected;
    for (const std::string& symbol : MergeNaively(symbols)) expected.push_back(*tokenizer->FindToken(symbol));
    ASSERT_EQ(Encode(*tokenizer, text), expected) << text;
  }
}

struct BadFile {
  const char* name;
  void (*change)(json&);
  absl::StatusCode code;
  const char* message;
};

TEST(SentencePiece, RefusesHostileOrUnknownFiles) {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnknown = absl::StatusCode::kUnimplemented;
  const BadFile files[] = {
      {"byte missing", [](json& t) { t["model"]["vocab"].erase("<0x0A>"); }, kBad,
       "byte 10 has no token <0x0A>"},
      {"merge of bytes",
       [](json& t) {
         t["model"]["vocab"]["<0x41>a"] = 400;
         t["model"]["merges"].push_back({"<0x41>", "a"});
       },
       kBad, "merge 10 has byte token `<0x41>`"},
      {"special character",
       [](json& t) {
         t["added_tokens"].push_back({{"id", 400}, {"content", "c"}, {"special", true}});
       },
       kBad, "special token 400 is the single character `c`"},
      {"merge makes special",
       [](json& t) {
         t["added_tokens"].push_back({{"id", kFirstMerge}, {"content", "\u2581\u2581"}, {"special", true}});
       },
       kBad, "merge 0 has special token"},
      {"byte is added",
       [](json& t) {
         t["added_tokens"].push_back({{"id", 10}, {"content", "<0x0A>"}, {"special", true}});
       },
       kBad, "which is `<0x0A>`"},
      {"prefix space",
       [](json& t) {
         t["normalizer"] = {{"type", "Sequence"},
                            {"normalizers", {{{"type", "Prepend"}, {"prepend", "\u2581"}}, t["normalizer"]}}};
       },
       kUnknown, "normalizer `Prepend`"},
      {"other replacement", [](json& t) { t["normalizer"]["content"] = "_"; }, kUnknown,
       "normalizer `Replace`"},
      {"no normalizer", [](json& t) { t.erase("normalizer"); }, kUnknown, "normalizer none"},
      {"NFC",
       [](json& t) {
         t["normalizer"] = {{"type", "NFC"}};
       },
       kUnknown, "normalizer NFC"},
      {"words",
       [](json& t) {
         t["pre_tokenizer"] = {{"type", "Whitespace"}};
       },
       kUnknown, "`Whitespace`"},
      {"decoder",
       [](json& t) {
         t["decoder"]["decoders"].push_back({{"type", "Strip"}});
       },
       kUnknown, "a decoder other"},
      {"no decoder", [](json& t) { t.erase("decoder"); }, kBad, "'decoders'"},
      {"whole words", [](json& t) { t["model"]["ignore_merges"] = true; }, kUnknown, "ignore_merges"},
      {"no fallback", [](json& t) { t["model"]["byte_fallback"] = false; }, kUnknown, "unk_token"},
  };
  for (const BadFile& file : files) {
    SCOPED_TRACE(file.name);
    json description = Description();
    file.change(description);
    const auto tokenizer = Tokenizer::FromJson(description.dump());
    EXPECT_EQ(tokenizer.status().code(), file.code) << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(file.message));
  }
}

}  // namespace
}  // namespace tandem::text
