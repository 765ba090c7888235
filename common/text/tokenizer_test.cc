#include "common/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ctime>
#include <random>

#include "absl/strings/match.h"
#include "common/text/byte_level.h"
#include "common/text/detokenizer.h"
#include "nlohmann/json.hpp"

namespace tandem::text {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Ids 0..255 are the bytes in order, then what `merges` make, then the added tokens.
json SmallTokenizer(const std::vector<std::pair<std::string, std::string>>& merges = {}) {
  json vocab = json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[ByteLevelAlphabet()[byte]] = byte;
  json pairs = json::array();
  for (const auto& [left, right] : merges) {
    if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
    pairs.push_back({left, right});
  }
  const int n = vocab.size();
  const auto added = [](int id, const char* text, bool special) {
    return json{{"id", id}, {"content", text}, {"special", special}, {"normalized", false}};
  };
  return {
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", pairs}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
      {"added_tokens", {added(n, "<s>", true), added(n + 1, "<s>>", false), added(n + 2, "<think>", false)}}};
}

std::unique_ptr<Tokenizer> Load(const json& description) {
  auto tokenizer = Tokenizer::FromJson(description.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, const std::vector<Span>& spans) {
  const auto ids = tokenizer.Encode(spans);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>());
}

TEST(Tokenizer, MergesTheLowestRankFirstAndTheLeftmostAmongEquals) {
  const auto tokenizer = Load(SmallTokenizer({{"b", "c"}, {"a", "b"}, {"a", "a"}}));
  EXPECT_THAT(Encode(*tokenizer, {{"abc"}}), ElementsAre('a', 256));
  EXPECT_THAT(Encode(*tokenizer, {{"abab"}}), ElementsAre(257, 257));
  EXPECT_THAT(Encode(*tokenizer, {{"aaaaa"}}), ElementsAre(258, 258, 'a'));
}

TEST(Tokenizer, SpecialTextStaysTextWhereItIsNotTrusted) {
  const auto tokenizer = Load(SmallTokenizer());
  EXPECT_THAT(Encode(*tokenizer, {{"<s>", true}}), ElementsAre(256));
  EXPECT_THAT(Encode(*tokenizer, {{"<s>", false}}), ElementsAre('<', 's', '>'));
  // Half of it from the user, half from the template: still text.
  EXPECT_THAT(Encode(*tokenizer, {{"<", true}, {"s>", false}}), ElementsAre('<', 's', '>'));
  EXPECT_THAT(Encode(*tokenizer, {{"<", false}, {"s>", true}}), ElementsAre('<', 's', '>'));
  // Trusted text that was cut is one text.
  EXPECT_THAT(Encode(*tokenizer, {{"<", true}, {"", false}, {"s>", true}}), ElementsAre(256));
}

TEST(Tokenizer, AddedTokensThatAreNotSpecialAreRecognisedEverywhere) {
  const auto tokenizer = Load(SmallTokenizer());
  EXPECT_THAT(Encode(*tokenizer, {{"<think>", false}}), ElementsAre(258));
  EXPECT_THAT(Encode(*tokenizer, {{"<thi", true}, {"nk>", false}}), ElementsAre(258));
}

TEST(Tokenizer, TheLongestAddedTokenWinsAmongThoseAllowed) {
  const auto tokenizer = Load(SmallTokenizer());
  EXPECT_THAT(Encode(*tokenizer, {{"<s>>", true}}), ElementsAre(257));
  EXPECT_THAT(Encode(*tokenizer, {{"<s>", true}, {">", false}}), ElementsAre(257));
  EXPECT_THAT(Encode(*tokenizer, {{"<s><s>", true}}), ElementsAre(256, 256));
}

TEST(Tokenizer, NormalizedAddedTokensAreLookedForInWhatOthersLeft) {
  json description = SmallTokenizer();
  description["added_tokens"].push_back(
      {{"id", 259}, {"content", "x<s"}, {"special", false}, {"normalized", true}});
  const auto tokenizer = Load(description);
  EXPECT_THAT(Encode(*tokenizer, {{"x<s>", true}}), ElementsAre('x', 256));
  EXPECT_THAT(Encode(*tokenizer, {{"x<s>", false}}), ElementsAre(259, '>'));
}

TEST(Tokenizer, NormalisesWhatLiesBetweenAddedTokens) {
  json description = SmallTokenizer();
  description["normalizer"] = {{"type", "NFC"}};
  description["added_tokens"].push_back(
      {{"id", 259}, {"content", "<e\u0301>"}, {"special", true}, {"normalized", true}});
  const auto tokenizer = Load(description);
  EXPECT_THAT(Encode(*tokenizer, {{"e\u0301<think>"}}), ElementsAre(0xc3, 0xa9, 258));
  EXPECT_THAT(Encode(*tokenizer, {{"e", true}, {"\u0301"}}), ElementsAre(0xc3, 0xa9));
  // A token of the second pass is normalised like the text.
  EXPECT_THAT(Encode(*tokenizer, {{"<e\u0301>", true}}), ElementsAre(259));
  EXPECT_THAT(Encode(*tokenizer, {{"<\u00e9>", true}}), ElementsAre(259));
  EXPECT_THAT(Encode(*tokenizer, {{"<\u00e9>"}}), ElementsAre('<', 0xc3, 0xa9, '>'));
  // Where characters move, part of a text that is trusted is not enough.
  EXPECT_THAT(Encode(*tokenizer, {{"e\u0301"}, {"<e\u0301>", true}}),
              ElementsAre(0xc3, 0xa9, '<', 0xc3, 0xa9, '>'));
}

TEST(Tokenizer, SpansAreOneTextToThePreTokenizer) {
  const auto tokenizer = Load(SmallTokenizer({{"a", "b"}}));
  EXPECT_THAT(Encode(*tokenizer, {{"a", true}, {"b", false}}), ElementsAre(256));
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto tokenizer = Load(SmallTokenizer());
  for (const std::string bad : {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80"}) {
    EXPECT_EQ(tokenizer->Encode(bad, false).status().code(), absl::StatusCode::kInvalidArgument);
  }
  // A character may lie on both sides of a cut.
  EXPECT_THAT(Encode(*tokenizer, {{"\xc3", true}, {"\xa9", false}}), ElementsAre(0xc3, 0xa9));
}

TEST(Tokenizer, AWordThatIsATokenNeedsNoMergesIfTheFileSaysSo) {
  json description = SmallTokenizer();
  description["model"]["vocab"]["abc"] = 300;
  description["model"]["ignore_merges"] = true;
  EXPECT_THAT(Encode(*Load(description), {{"abc"}}), ElementsAre(300));
  description["model"]["ignore_merges"] = false;
  EXPECT_THAT(Encode(*Load(description), {{"abc"}}), ElementsAre('a', 'b', 'c'));
}

TEST(Tokenizer, TemplateProcessingGivesThePromptPrefix) {
  json description = SmallTokenizer();
  description["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}}}}}}};
  EXPECT_THAT(Load(description)->prompt_prefix(), ElementsAre(256));
  EXPECT_THAT(Load(SmallTokenizer())->prompt_prefix(), IsEmpty());
}

TEST(Tokenizer, AddedTokensThatTheModelHasNoRowsForAreText) {
  formats::Checkpoint::TextSources sources;
  sources.tokenizer_json = SmallTokenizer().dump();
  sources.vocab_size = 258;  // of 259
  const auto tokenizer = Tokenizer::Create(sources);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 258);
  EXPECT_THAT(Encode(**tokenizer, {{"<s><think>", true}}),
              ElementsAre(256, '<', 't', 'h', 'i', 'n', 'k', '>'));
  sources.vocab_size = 255;
  EXPECT_EQ(Tokenizer::Create(sources).status().message(),
            "tokenizer.json: the tokenizer has 259 ids, the model only 255");
}

TEST(Tokenizer, KnowsItsTokens) {
  const auto tokenizer = Load(SmallTokenizer());
  EXPECT_EQ(tokenizer->vocab_size(), 259);
  EXPECT_EQ(tokenizer->FindToken("<s>"), 256);
  EXPECT_EQ(tokenizer->FindToken("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenBytes(' '), " ");
  EXPECT_EQ(tokenizer->TokenBytes(0xff), "\xff");
  EXPECT_TRUE(tokenizer->IsSpecial(256));
  EXPECT_FALSE(tokenizer->IsSpecial(258));
}

TEST(Tokenizer, EqualDescriptionsHaveEqualHashesAndOthersDiffer) {
  const json base = SmallTokenizer({{"a", "b"}, {"b", "c"}});
  EXPECT_EQ(Load(base)->hash(), Load(base)->hash());
  EXPECT_EQ(Load(base)->hash().size(), 64u);
  EXPECT_NE(Load(base)->hash(), Load(SmallTokenizer({{"a", "b"}}))->hash());
  json swapped = base;
  std::swap(swapped["model"]["merges"][0], swapped["model"]["merges"][1]);
  EXPECT_NE(Load(base)->hash(), Load(swapped)->hash());
  json other_special = base;
  other_special["added_tokens"][0]["special"] = false;
  EXPECT_NE(Load(base)->hash(), Load(other_special)->hash());
}

TEST(Tokenizer, LongWordsTakeNoQuadraticTime) {
  const auto tokenizer =
      Load(SmallTokenizer({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}, {"a", "b"}, {"Ġ", "Ġ"}}));
  // A quadratic algorithm would take minutes for each of these; a linear one well under a second.
  const std::clock_t start = std::clock();  // CPU time
  EXPECT_EQ(Encode(*tokenizer, {{std::string(1 << 20, 'a')}}).size(), size_t{1 << 20} / 8);
  EXPECT_EQ(Encode(*tokenizer, {{std::string(1 << 20, ' ')}}).size(), size_t{1 << 20} / 2);
  EXPECT_EQ(Encode(*tokenizer, {{std::string(1 << 20, '<')}}).size(), size_t{1 << 20});
  std::string mixed;
  while (mixed.size() < 1 << 20) mixed += " \n \xc2\xa0<a1's";
  EXPECT_FALSE(Encode(*tokenizer, {{mixed}}).empty());
  EXPECT_LT((std::clock() - start) / CLOCKS_PER_SEC, 60);
}

// A change to the description, and a part of the error that it must cause.
struct BadFile {
  const char* name;
  void (*change)(json&);
  absl::StatusCode code;
  const char* message;
};

TEST(Tokenizer, RefusesHostileOrUnknownFiles) {
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  constexpr auto kUnknown = absl::StatusCode::kUnimplemented;
  const BadFile files[] = {
      {"id negative", [](json& t) { t["model"]["vocab"]["xx"] = -1; }, kBad, "id -1"},
      {"id huge", [](json& t) { t["model"]["vocab"]["xx"] = 1ull << 62; }, kBad, "id 4611686018427387904"},
      {"id fraction", [](json& t) { t["model"]["vocab"]["xx"] = 1.5; }, kBad, "1.5"},
      {"id twice", [](json& t) { t["model"]["vocab"]["xx"] = 5; }, kBad, "both have id 5"},
      {"vocab list", [](json& t) { t["model"]["vocab"] = json::array(); }, kBad, "model.vocab"},
      {"vocab empty",
       [](json& t) {
         t["model"]["vocab"] = json::object();
         t["added_tokens"] = json::array();
       },
       kBad, "empty"},
      {"merge unknown",
       [](json& t) {
         t["model"]["merges"].push_back({"a", "zz"});
       },
       kBad, "unknown token `zz`"},
      {"merge result unknown",
       [](json& t) {
         t["model"]["merges"].push_back({"a", "z"});
       },
       kBad, "`az`"},
      {"merge of three", [](json& t) { t["model"]["merges"].push_back("a b c"); }, kBad, "merge 1"},
      {"merge number", [](json& t) { t["model"]["merges"].push_back(7); }, kBad, "merges[1]"},
      {"merge twice",
       [](json& t) {
         t["model"]["merges"].push_back({"a", "b"});
       },
       kBad, "repeats"},
      {"merge makes special",
       [](json& t) {
         t["added_tokens"].push_back({{"id", 256}, {"content", "ab"}, {"special", true}});
       },
       kBad, "special token `ab`"},
      {"special is a byte",
       [](json& t) {
         t["added_tokens"].push_back({{"id", 97}, {"content", "a"}, {"special", true}});
       },
       kBad, "single byte 97"},
      {"added id huge", [](json& t) { t["added_tokens"][0]["id"] = 1 << 30; }, kBad, "added_tokens[0]"},
      {"added id of another", [](json& t) { t["added_tokens"][0]["id"] = 97; }, kBad, "which is `a`"},
      {"added ids equal", [](json& t) { t["added_tokens"][0]["id"] = 258; }, kBad, "added_tokens[1]"},
      {"added texts equal", [](json& t) { t["added_tokens"][0]["content"] = "<think>"; }, kBad, "<think>"},
      {"added empty", [](json& t) { t["added_tokens"][0]["content"] = ""; }, kBad, "empty"},
      {"added long", [](json& t) { t["added_tokens"][0]["content"] = std::string(5000, '<'); }, kBad,
       "5000 bytes"},
      {"added string", [](json& t) { t["added_tokens"][0] = "x"; }, kBad, "added_tokens[0]"},
      {"added lstrip", [](json& t) { t["added_tokens"][0]["lstrip"] = true; }, kUnknown, "lstrip"},
      {"normalizer",
       [](json& t) {
         t["normalizer"] = {{"type", "NFKC"}};
       },
       kUnknown, "normalizer `NFKC`"},
      {"two normalizers",
       [](json& t) {
         t["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "NFC"}}}}};
       },
       kUnknown, "normalizer `NFC`"},
      {"model type", [](json& t) { t["model"]["type"] = "Unigram"; }, kUnknown, "`Unigram`"},
      {"dropout", [](json& t) { t["model"]["dropout"] = 0.1; }, kUnknown, "dropout"},
      {"no pre-tokenizer", [](json& t) { t.erase("pre_tokenizer"); }, kUnknown, "pre-tokenizer"},
      {"pre-tokenizer",
       [](json& t) {
         t["pre_tokenizer"] = {{"type", "Metaspace"}};
       },
       kUnknown, "Metaspace"},
      {"regex",
       [](json& t) {
         t["pre_tokenizer"] = {
             {"type", "Sequence"},
             {"pretokenizers",
              {{{"type", "Split"},
                {"pattern", {{"Regex", "(a+)+$"}}},
                {"behavior", "Isolated"},
                {"invert", false}},
               {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
       },
       kUnknown, "(a+)+$"},
      {"decoder",
       [](json& t) {
         t["decoder"] = {{"type", "Fuse"}};
       },
       kUnknown, "decoder"},
      {"prefix unknown",
       [](json& t) {
         t["post_processor"] = {{"type", "TemplateProcessing"},
                                {"single", {{{"SpecialToken", {{"id", "<q>"}}}}}}};
       },
       kBad, "<q>"},
  };
  for (const BadFile& file : files) {
    SCOPED_TRACE(file.name);
    json description = SmallTokenizer({{"a", "b"}});
    file.change(description);
    const auto tokenizer = Tokenizer::FromJson(description.dump());
    EXPECT_EQ(tokenizer.status().code(), file.code) << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(file.message));
  }
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string(200'000, '['),
        std::string("{\"model\": 1}"), std::string("{\"a\": 1, \"a\": 2}")}) {
    EXPECT_EQ(Tokenizer::FromJson(text).status().code(), kBad) << text.substr(0, 20);
  }
}

TEST(Tokenizer, SurvivesMutatedFiles) {
  const std::string good = SmallTokenizer({{"a", "b"}, {"ab", "c"}}).dump();
  std::mt19937 random(1);
  int num_loaded = 0;
  for (int round = 0; round < 1500; ++round) {
    std::string text = good;
    for (int changes = random() % 3 + 1; changes > 0; --changes) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, random() % 20);
          break;
        case 2:
          text.insert(at, text.substr(random() % text.size(), random() % 30));
          break;
        case 3:
          text.replace(at, 1, std::to_string(static_cast<int>(random())));
          break;
      }
    }
    const auto tokenizer = Tokenizer::FromJson(text);
    if (!tokenizer.ok()) continue;
    ++num_loaded;
    EXPECT_TRUE((*tokenizer)->Encode("abc <s><think> it's 12", true).ok());
    for (int id = 0; id < std::min((*tokenizer)->vocab_size(), 400); ++id) (*tokenizer)->TokenBytes(id);
  }
  EXPECT_GT(num_loaded, 0);
}

TEST(Detokenizer, NeverShowsHalfACharacter) {
  const auto tokenizer = Load(SmallTokenizer());
  Detokenizer detokenizer(*tokenizer, false);
  EXPECT_EQ(detokenizer.Push(0xf0), "");
  EXPECT_EQ(detokenizer.Push(0x9f), "");
  EXPECT_EQ(detokenizer.Push(0x98), "");
  EXPECT_EQ(detokenizer.Push(0x80), "\xf0\x9f\x98\x80");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(Detokenizer, ReplacesEachMaximalIllFormedPartOnce) {
  const auto tokenizer = Load(SmallTokenizer());
  const std::string fffd = "\xef\xbf\xbd";
  const auto decode = [&](const std::string& bytes) {
    Detokenizer detokenizer(*tokenizer, false);
    std::string text;
    for (const char c : bytes) text += detokenizer.Push(static_cast<uint8_t>(c));
    return text + detokenizer.Finish();
  };
  EXPECT_EQ(decode("\xff"
                   "a"),
            fffd + "a");
  EXPECT_EQ(decode("\xc0\x80"), fffd + fffd);  // overlong: neither byte begins a character
  EXPECT_EQ(decode("\xe2\x82"
                   "x"),
            fffd + "x");                                  // two bytes of a euro sign are one part
  EXPECT_EQ(decode("\xed\xa0\x80"), fffd + fffd + fffd);  // surrogate
  EXPECT_EQ(decode("\xf0\x9f\x98"), fffd);                // cut off at the end
  EXPECT_EQ(decode("\xf4\x90\x80\x80"), fffd + fffd + fffd + fffd);
  EXPECT_EQ(decode("\x80\xe2\x82\xac"), fffd + "\xe2\x82\xac");
}

TEST(Detokenizer, SkipsSpecialTokensAndUnknownIds) {
  const auto tokenizer = Load(SmallTokenizer());
  Detokenizer shows(*tokenizer, false), skips(*tokenizer, true);
  EXPECT_EQ(shows.Push(256), "<s>");
  EXPECT_EQ(skips.Push(256), "");
  EXPECT_EQ(skips.Push(258), "<think>");  // added, not special
  for (const int32_t id : {-1, 259, 1 << 30}) EXPECT_EQ(shows.Push(id), "");
}

}  // namespace
}  // namespace tandem::text
