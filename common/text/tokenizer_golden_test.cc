// Tokenizers against ids and streamed pieces recorded from their reference implementation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/formats/gguf.h"
#include "common/text/detokenizer.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/gzip.h"

namespace tandem::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::DataDir;
using testing::GoldenDir;

// The tokenizer file that belongs to tokenizers/<name>.json.
fs::path TokenizerPath(const std::string& name) {
  const fs::path beside = GoldenDir() / "tokenizers" / (name + ".tokenizer.json.gz");
  return fs::exists(beside) ? beside : DataDir() / "tokenizers" / name / "tokenizer.json.gz";
}

std::vector<int32_t> Ids(const json& ids) { return ids.get<std::vector<int32_t>>(); }

struct Streamed {
  std::vector<std::string> pieces;
  std::string tail, text;
};

Streamed Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special = false) {
  Streamed out;
  Detokenizer detokenizer(tokenizer, skip_special);
  for (const int32_t id : ids) out.text += out.pieces.emplace_back(detokenizer.Push(id));
  out.tail = detokenizer.Finish();
  out.text += out.tail;
  return out;
}

void CheckText(const Tokenizer& tokenizer, const json& item) {
  const std::string text = item.at("text");
  SCOPED_TRACE(text);
  const std::vector<int32_t> ids = Ids(item.at("ids"));
  const auto plain = tokenizer.Encode(text, /*special_tokens=*/false);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(*plain, ids);
  const Streamed streamed = Stream(tokenizer, ids);
  EXPECT_EQ(streamed.text, item.value("decoded", text));
  EXPECT_EQ(streamed.pieces, item.at("pieces").get<std::vector<std::string>>());
  EXPECT_EQ(streamed.tail, item.value("tail", ""));

  const auto special = tokenizer.Encode(text, /*special_tokens=*/true);
  ASSERT_TRUE(special.ok()) << special.status();
  EXPECT_EQ(*special, Ids(item.value("ids_special", item.at("ids"))));
  if (item.contains("pieces_special")) {
    EXPECT_EQ(Stream(tokenizer, *special).pieces, item.at("pieces_special").get<std::vector<std::string>>());
  }
  if (item.contains("decoded_special")) {
    EXPECT_EQ(Stream(tokenizer, *special).text, item.at("decoded_special").get<std::string>());
  }
  if (item.contains("decoded_special_skipped")) {
    EXPECT_EQ(Stream(tokenizer, *special, true).text, item.at("decoded_special_skipped").get<std::string>());
  }
}

// However a text is cut into spans of equal trust, its ids are the same.
void CheckCutsDoNotMatter(const Tokenizer& tokenizer, const json& item) {
  const std::string text = item.at("text");
  std::vector<Span> spans;
  for (size_t at = 0; at < text.size(); at += 3) spans.push_back({text.substr(at, 3), true});
  const auto ids = tokenizer.Encode(spans);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*ids, Ids(item.value("ids_special", item.at("ids"))));
}

void CheckFacts(const Tokenizer& tokenizer, const json& facts) {
  EXPECT_EQ(tokenizer.vocab_size(), facts.at("vocabulary").get<int>());
  if (!facts.contains("bytes_without_a_token")) return;
  for (const int byte : facts.at("bytes_without_a_token")) {
    if (byte >= 0x80) continue;  // alone no text
    const auto ids = tokenizer.Encode(std::string(1, static_cast<char>(byte)), false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_TRUE(ids->empty()) << "byte " << byte;
  }
}

TEST(TokenizerGolden, EncodesAndStreamsAsTheReferenceDoes) {
  const json facts = json::parse(testing::ReadFile(GoldenDir() / "tokenizers/facts.json"));
  int num_cases = 0, num_tokenizers = 0;
  for (const auto& entry : fs::directory_iterator(GoldenDir() / "tokenizers")) {
    if (entry.path().extension() != ".json" || entry.path().filename() == "facts.json") continue;
    const std::string name = entry.path().stem();
    SCOPED_TRACE(name);
    ++num_tokenizers;
    const json golden = json::parse(testing::ReadFile(entry.path()));
    const std::string file = testing::ReadGzip(TokenizerPath(name));
    ASSERT_FALSE(file.empty()) << TokenizerPath(name);
    const auto tokenizer = Tokenizer::FromJson(file);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    if (facts.contains(name)) CheckFacts(**tokenizer, facts.at(name));
    for (const json& item : golden.at("texts")) {
      CheckText(**tokenizer, item);
      CheckCutsDoNotMatter(**tokenizer, item);
      ++num_cases;
    }
    for (const json& item : golden.at("random_ids")) {
      const Streamed streamed = Stream(**tokenizer, Ids(item.at("ids")));
      EXPECT_EQ(streamed.pieces, item.at("pieces").get<std::vector<std::string>>());
      EXPECT_EQ(streamed.tail, item.value("tail", ""));
      ++num_cases;
    }
  }
  std::printf("%d cases of %d tokenizers\n", num_cases, num_tokenizers);
  EXPECT_GT(num_cases, 0);
}

// Every tokenizer.json and GGUF among the models: it loads and texts survive the way to ids and back.
TEST(TokenizerGolden, EveryModelsTokenizerLoads) {
  int num_loaded = 0;
  for (const auto& entry : fs::recursive_directory_iterator(GoldenDir())) {
    const fs::path path = entry.path();
    if (path.string().find("gguf_bad") != std::string::npos) continue;
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = absl::UnknownError("unset");
    if (path.filename() == "tokenizer.json") {
      tokenizer = Tokenizer::FromJson(testing::ReadFile(path));
    } else if (path.extension() == ".gguf") {
      const auto file = formats::GgufFile::Open(path);
      ASSERT_TRUE(file.ok()) << file.status();
      tokenizer = Tokenizer::FromGguf(**file);
    } else {
      continue;
    }
    SCOPED_TRACE(path);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ++num_loaded;
    for (const std::string text : {"Hello, world", "  two\n\n spaces 123 it's", "<|im_start|>user"}) {
      const auto ids = (*tokenizer)->Encode(text, false);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(Stream(**tokenizer, *ids).text, text);
      EXPECT_TRUE(
          std::none_of(ids->begin(), ids->end(), [&](int id) { return (*tokenizer)->IsSpecial(id); }));
    }
  }
  std::printf("%d tokenizers loaded\n", num_loaded);
  EXPECT_GT(num_loaded, 0);
}

}  // namespace
}  // namespace tandem::text
