// ngram, random and scripted drafters.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "drafter/models/ngram.h"
#include "drafter/models/random.h"
#include "drafter/models/scripted.h"

namespace tandem::drafter {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::unique_ptr<kernels::KvCache> AnyCache() {
  return *kernels::KvCache::Create(kernels::KvLayout::Create(kernels::KvType::kF32, {{1, 8}}), 1);
}

DraftedBlock DraftOne(DraftModel& model, const std::vector<int32_t>& context, DrawMode mode = {},
                      uint64_t id = 1, uint32_t epoch = 1, uint32_t round = 1) {
  const auto cache = AnyCache();
  DraftRequest request;
  request.context = context;
  request.start = static_cast<int32_t>(context.size()) - 1;
  request.id = id;
  request.epoch = epoch;
  request.round = round;
  std::vector<DraftedBlock> drafts;
  model.Draft(mode, {&request, 1}, *cache, drafts);
  EXPECT_THAT(drafts, SizeIs(1));
  return drafts.at(0);
}

TEST(Ngram, ContinuesTheLongestEarlierMatch) {
  //                        4-gram match: 1 2 3 4 -> 9; a later 2-gram match 3 4 -> 7 is shorter.
  EXPECT_EQ(FindContinuation(std::vector<int32_t>{1, 2, 3, 4, 9, 3, 4, 7, 1, 2, 3, 4}), 4);
  // Of equally long ones the latest.
  EXPECT_EQ(FindContinuation(std::vector<int32_t>{5, 6, 1, 5, 6, 2, 5, 6}), 5);
  // More than four tokens are not compared.
  EXPECT_EQ(FindContinuation(std::vector<int32_t>{8, 1, 2, 3, 4, 5, 9, 1, 2, 3, 4, 6, 8, 1, 2, 3, 4}), 11);
}

TEST(Ngram, FindsNothingInATextWithoutRepeats) {
  EXPECT_EQ(FindContinuation(std::vector<int32_t>{1}), 0);
  EXPECT_EQ(FindContinuation(std::vector<int32_t>{1, 2, 3}), 0);
}

TEST(Ngram, ProposesWhatFollowedAndGoesOnLooping) {
  const auto model = NewNgramDrafter({.block_size = 5});
  EXPECT_THAT(DraftOne(*model, {7, 1, 2, 3, 4, 5, 6, 7}).tokens, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(DraftOne(*model, {9, 1, 2, 1, 2}).tokens, ElementsAre(1, 2, 1, 2, 1));
  EXPECT_THAT(DraftOne(*model, {4, 4}).tokens, ElementsAre(4, 4, 4, 4, 4));
}

TEST(Ngram, AnswersEveryRound) {
  const auto model = NewNgramDrafter({});
  EXPECT_THAT(DraftOne(*model, {3}).tokens, ElementsAre(3));
  EXPECT_THAT(DraftOne(*model, {1, 2, 3}).tokens, ElementsAre(3));
}

TEST(Ngram, NeedsNoRowsAndFitsEveryTarget) {
  const auto model = NewNgramDrafter({.block_size = 7});
  EXPECT_EQ(model->info().projection.width, 0);
  EXPECT_EQ(model->info().vocab_size, 0);
  EXPECT_FALSE(model->info().has_confidence);
  EXPECT_TRUE(model->kv_layout().layers.empty());
}

TEST(TokenDrafters, InRejectionModeTheirDistributionIsCertain) {
  const auto model = NewNgramDrafter({.block_size = 2});
  const DraftedBlock block =
      DraftOne(*model, {4, 4}, {.acceptance = speculation::AcceptanceMode::kRejection, .top_m = 8});
  ASSERT_THAT(block.distributions, SizeIs(2));
  ASSERT_THAT(block.distributions[1], SizeIs(1));
  EXPECT_EQ(block.distributions[1][0].token, block.tokens[1]);
  EXPECT_EQ(block.distributions[1][0].probability, 1.0f);
}

TEST(Random, TheSameRoundDrawsTheSameAndNothingElseDoes) {
  const auto model = NewRandomDrafter({.vocab_size = 1000, .block_size = 7, .seed = 5});
  const auto again = NewRandomDrafter({.vocab_size = 1000, .block_size = 7, .seed = 5});
  const auto other = NewRandomDrafter({.vocab_size = 1000, .block_size = 7, .seed = 6});
  const std::vector<int32_t> tokens = DraftOne(*model, {1, 2}).tokens;
  EXPECT_THAT(tokens, SizeIs(7));
  EXPECT_EQ(DraftOne(*again, {9}).tokens, tokens);
  EXPECT_NE(DraftOne(*other, {1, 2}).tokens, tokens);
  EXPECT_NE(DraftOne(*model, {1, 2}, {}, 2).tokens, tokens);
  EXPECT_NE(DraftOne(*model, {1, 2}, {}, 1, 2).tokens, tokens);
  EXPECT_NE(DraftOne(*model, {1, 2}, {}, 1, 1, 2).tokens, tokens);
}

TEST(Random, ReachesAllIdsAboutEquallyOften) {
  const auto model = NewRandomDrafter({.vocab_size = 10, .block_size = 50});
  std::vector<int> counts(10);
  for (uint32_t round = 1; round <= 200; ++round) {
    for (const int32_t token : DraftOne(*model, {1}, {}, 1, 1, round).tokens) ++counts.at(token);
  }
  // 10,000 draws: mean 1,000, standard deviation 30.
  EXPECT_THAT(counts, Each(::testing::AllOf(::testing::Gt(850), ::testing::Lt(1150))));
}

TEST(Scripted, FollowsTextsThenPositionsThenTheRule) {
  const auto script = ParseScript(R"({"block_size": 3, "vocab_size": 10, "confidence": 2.5}
{"text": [1, 2, 3, 4, 5, 6, 7]}

{"position": 2, "tokens": [8, 8]}
{"rule": "successor"})");
  ASSERT_TRUE(script.ok()) << script.status();
  const auto model = NewScriptedDrafter(*script);
  EXPECT_EQ(model->info().block_size, 3);
  EXPECT_EQ(model->info().vocab_size, 10);
  EXPECT_THAT(DraftOne(*model, {1, 2}).tokens, ElementsAre(3, 4, 5));
  EXPECT_THAT(DraftOne(*model, {1, 2, 3, 4, 5, 6}).tokens, ElementsAre(7));
  EXPECT_THAT(DraftOne(*model, {1, 3}).tokens, ElementsAre(8, 8));
  EXPECT_THAT(DraftOne(*model, {1, 3, 8}).tokens, ElementsAre(9, 0, 1));
  EXPECT_THAT(DraftOne(*model, {1, 3}).confidence_logits, ElementsAre(2.5f, 2.5f));
}

TEST(Scripted, RepeatsByDefault) {
  const auto model = NewScriptedDrafter(*ParseScript(R"({"block_size": 2})"));
  EXPECT_THAT(DraftOne(*model, {1, 3}).tokens, ElementsAre(3, 3));
  EXPECT_THAT(DraftOne(*model, {1, 3}).confidence_logits, SizeIs(0));
}

TEST(Script, KnowsEveryMisdeedByName) {
  std::string text;
  for (const std::string& name : MisbehaviourNames())
    text += R"({"misbehave": ")" + name + "\", \"every\": 3}\n";
  const auto script = ParseScript(text);
  ASSERT_TRUE(script.ok()) << script.status();
  ASSERT_EQ(script->misdeeds.size(), MisbehaviourNames().size());
  EXPECT_EQ(script->misdeeds.back().kind, Misbehaviour::kWrongProjection);
  EXPECT_EQ(script->misdeeds.back().every, 3);
}

TEST(Script, ErrorsNameTheLine) {
  const std::vector<std::pair<const char*, const char*>> cases{
      {"{}", "line 1: none of"},
      {"\n[1]", "line 2: must be an object"},
      {"{\"text\": []}", "line 1: text must be"},
      {"{\"text\": [-1]}", "line 1: text must be"},
      {"{\"text\": [1.5]}", "line 1: text must be"},
      {"{\"position\": 0, \"tokens\": [1]}", "line 1: position must be"},
      {"{\"position\": 1}", "line 1: tokens are missing"},
      {"{\"block_size\": 1}\n{\"position\": 1, \"tokens\": [1, 2]}", "line 2: tokens must be 1..1"},
      {"{\"block_size\": 65}", "line 1: block_size must be"},
      {"{\"vocab_size\": 0}", "line 1: vocab_size must be"},
      {"{\"confidence\": \"high\"}", "line 1: confidence must be"},
      {"{\"rule\": \"successor\"}", "line 1: rule must be"},
      {"{\"delay_ms\": -1}", "line 1: delay_ms must be"},
      {"{\"misbehave\": \"be_nice\"}", "line 1: misbehave must be one of too_many_tokens"},
      {"{\"misbehave\": \"flood\", \"every\": 0}", "line 1: every must be"},
      {"nonsense", "line 1:"},
  };
  for (const auto& [text, message] : cases)
    EXPECT_THAT(std::string(ParseScript(text).status().message()), HasSubstr(message)) << text;
  EXPECT_THAT(std::string(ReadScript("/no/such/script").status().message()), HasSubstr("/no/such/script"));
}

}  // namespace
}  // namespace tandem::drafter
