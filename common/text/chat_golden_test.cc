// Chat templates against conversations rendered and tokenised by their reference implementation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/text/chat_template.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"
#include "tests/support/gzip.h"

namespace tandem::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using testing::DataDir;
using testing::GoldenDir;

fs::path TokenizerPath(const std::string& name) {
  const fs::path beside = GoldenDir() / "tokenizers" / (name + ".tokenizer.json.gz");
  return fs::exists(beside) ? beside : DataDir() / "tokenizers" / name / "tokenizer.json.gz";
}

std::unique_ptr<Tokenizer> TokenizerOf(const std::string& name) {
  auto tokenizer = Tokenizer::FromJson(testing::ReadGzip(TokenizerPath(name)));
  EXPECT_TRUE(tokenizer.ok()) << TokenizerPath(name) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> SpecialIds(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::vector<int32_t> special;
  std::copy_if(ids.begin(), ids.end(), std::back_inserter(special),
               [&](int id) { return tokenizer.IsSpecial(id); });
  return special;
}

// The special ids of the template's own text alone, each span apart.
std::vector<int32_t> SpecialIdsOfTemplate(const Tokenizer& tokenizer, const std::vector<Span>& spans) {
  std::vector<int32_t> all;
  for (const Span& span : spans) {
    if (!span.trusted) continue;
    const auto ids = tokenizer.Encode(span.text, true);
    EXPECT_TRUE(ids.ok()) << ids.status();
    for (const int32_t id : SpecialIds(tokenizer, *ids)) all.push_back(id);
  }
  return all;
}

void CheckIds(const Tokenizer& tokenizer, const std::vector<Span>& spans, const ordered_json& expected) {
  const auto ids = tokenizer.Encode(spans);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(SpecialIds(tokenizer, *ids), SpecialIdsOfTemplate(tokenizer, spans));
  const std::vector<int32_t> reference = expected.at("ids").get<std::vector<int32_t>>();
  if (expected.at("name") == "special_text_in_content") {
    // The reference takes what a user typed for control tokens; here it stays text.
    EXPECT_LT(SpecialIds(tokenizer, *ids).size(), SpecialIds(tokenizer, reference).size());
    const auto all_trusted = tokenizer.Encode(JoinSpans(spans), true);
    ASSERT_TRUE(all_trusted.ok()) << all_trusted.status();
    EXPECT_EQ(*all_trusted, reference);
  } else {
    EXPECT_EQ(*ids, reference);
  }
}

void CheckCase(const ChatTemplate& chat, const Tokenizer* tokenizer, const ordered_json& item) {
  ChatTemplate::Inputs inputs;
  inputs.messages = &item.at("messages");
  if (item.contains("tools")) inputs.tools = &item.at("tools");
  inputs.add_generation_prompt = item.at("add_generation_prompt");
  for (const auto& [key, value] : item.items()) {
    if (value.is_boolean() && key != "add_generation_prompt") inputs.extra[key] = value;
  }
  const auto spans = chat.Render(inputs);
  if (item.contains("error")) {
    EXPECT_EQ(spans.status().code(), absl::StatusCode::kInvalidArgument) << spans.status();
    EXPECT_EQ(spans.status().message(), item.at("error").get<std::string>());
    return;
  }
  ASSERT_TRUE(spans.ok()) << spans.status();
  EXPECT_EQ(JoinSpans(*spans), item.at("text").get<std::string>());
  if (tokenizer != nullptr) CheckIds(*tokenizer, *spans, item);
}

TEST(ChatGolden, RendersAsTheReferenceDoes) {
  int num_cases = 0;
  for (const auto& entry : fs::directory_iterator(GoldenDir() / "chat")) {
    if (entry.path().extension() != ".json") continue;
    const std::string name = entry.path().stem();
    const ordered_json golden = ordered_json::parse(testing::ReadFile(entry.path()));
    const ordered_json bos = golden.value("bos_token", ordered_json());
    const auto chat =
        ChatTemplate::Create(golden.at("template"), bos.is_string() ? bos.get<std::string>() : "", "");
    ASSERT_TRUE(chat.ok()) << name << ": " << chat.status();
    const std::unique_ptr<Tokenizer> tokenizer = TokenizerOf(name);
    for (const ordered_json& item : golden.at("cases")) {
      SCOPED_TRACE(name + " " + item.dump().substr(0, 500));
      CheckCase(**chat, tokenizer.get(), item);
      ++num_cases;
    }
  }
  std::printf("%d cases\n", num_cases);
  EXPECT_GT(num_cases, 0);
}

}  // namespace
}  // namespace tandem::text
