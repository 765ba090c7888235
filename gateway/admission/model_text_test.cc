// The trained pair's target, a small real model of tests/golden: its tokenizer and chat template through the
// core.
#include "gateway/admission/model_text.h"

#include <filesystem>

#include "gateway/admission/core.h"
#include "gateway/admission/fake_text.h"
#include "gateway/admission/text_stream.h"
#include "gateway/errors.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/golden.h"

namespace tandem::gateway {
namespace {

std::string TargetPath() { return testing::GoldenDir() / "drafters/trained_pair/target"; }

TEST(ModelTextTest, LoadsTokenizerTemplateAndEosOfARealModel) {
  auto model = LoadModelText(TargetPath());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_GE(model->vocab_size, model->tokenizer->vocab_size());
  EXPECT_GT(model->max_position, 0);
  EXPECT_FALSE(model->eos_token_ids.empty());
  ASSERT_NE(model->chat_template, nullptr);

  const std::string words = "caf\u00e9 \U0001F600 <|im_end|> plain";
  const auto ids = EncodeText(*model, words);
  ASSERT_TRUE(ids.ok()) << ids.status();
  // Whatever the user writes stays text, and comes back through a stream character by character.
  TextStream stream(*model->tokenizer, {}, 0);
  std::string out;
  for (size_t i = model->tokenizer->prompt_prefix().size(); i < ids->size(); ++i) {
    EXPECT_FALSE(model->tokenizer->IsSpecial((*ids)[i]));
    stream.Push((*ids)[i], out);
  }
  EXPECT_FALSE(stream.Finish(out));
  EXPECT_EQ(out, words);

  const auto messages = nlohmann::ordered_json::parse(R"([{"role":"user","content":"Hello <|im_end|>"}])");
  const auto prompt = EncodeConversation(*model, "m", messages, {});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_GT(prompt->size(), 3u);
}

TEST(ModelTextTest, MissingFilesAreNamed) {
  const auto model = LoadModelText("/nonexistent/model");
  EXPECT_FALSE(model.ok());
  EXPECT_NE(std::string(model.status().message()).find("/nonexistent/model"), std::string::npos);
}

TEST(ModelTextTest, StopTextsMatchAcrossTheTokensOfARealTokenizer) {
  auto model = LoadModelText(TargetPath());
  ASSERT_TRUE(model.ok()) << model.status();
  const std::string words = "one two three four five six seven";
  const auto ids = EncodeText(*model, words);
  ASSERT_TRUE(ids.ok());
  for (size_t begin = 1; begin + 1 < words.size(); ++begin) {
    for (size_t length = 1; length < 9 && begin + length <= words.size(); ++length) {
      const std::string stop = words.substr(begin, length);
      TextStream stream(*model->tokenizer, {stop}, 0);
      std::string out;
      bool stopped = false;
      for (size_t i = model->tokenizer->prompt_prefix().size(); i < ids->size() && !stopped; ++i) {
        stopped = stream.Push((*ids)[i], out);
      }
      EXPECT_TRUE(stopped) << stop;
      EXPECT_EQ(out, words.substr(0, words.find(stop))) << stop;
    }
  }
}

}  // namespace
}  // namespace tandem::gateway
