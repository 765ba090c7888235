// One block of each golden case, step by step, given the stored features.
#include <gtest/gtest.h>

#include "drafter/models/draft_driver.h"
#include "drafter/models/golden_drafts.h"
#include "drafter/models/test_checkpoint.h"

namespace tandem::drafter {
namespace {

using models::ExpectedTensors;
using nlohmann::json;

// golden/drafters/README.md.
constexpr float kAbsolute = 1e-4f, kRelative = 1e-4f;

class GoldenForward : public ::testing::TestWithParam<DraftCase> {
 protected:
  void SetUp() override {
    model_ = LoadCase(GetParam(), pool_);
    if (model_ == nullptr) return;
    facts_ = json::parse(testing::ReadFile(GetParam().directory / "facts.json"));
    expected_.emplace(GetParam().directory / "expect.safetensors");
    EXPECT_EQ(facts_.at("target_layer_ids").get<std::vector<int32_t>>(), model_->info().projection.taps);
  }

  void ExpectNear(std::span<const float> actual, const std::string& name) {
    EXPECT_TRUE(AllNear(actual, expected_->Floats(name), kAbsolute, kRelative)) << name;
  }

  // [tokens of the prompt, anchor]
  static std::vector<int32_t> TokensOf(const json& prompt) {
    std::vector<int32_t> tokens = prompt.at("token_ids");
    tokens.push_back(prompt.at("anchor"));
    return tokens;
  }

  std::vector<float> Rows(const std::string& prompt) {
    return Project(model_->info(), expected_->Floats(prompt + ".features"), pool_);
  }

  // Greedy and sampled draws against the logits, tokens and confidences of the file.
  void CheckDraws(DraftDriver& driver, const DraftDriver::Sequence& sequence, const std::string& name,
                  const json& prompt) {
    for (const char* const kind : {"greedy", "sampled"}) {
      SCOPED_TRACE(name + "." + kind);
      const json& facts = prompt.at(kind);
      const RecordedDrawer drawer(facts.at("temperature"), facts.value("uniforms", std::vector<double>()));
      const DraftedBlock block = driver.DraftWith(drawer, sequence);
      EXPECT_EQ(block.tokens, facts.at("tokens").get<std::vector<int32_t>>());
      ExpectNear(drawer.rows(), name + "." + kind + ".logits");
      std::vector<float> probabilities;
      for (const auto& law : drawer.laws()) probabilities.insert(probabilities.end(), law.begin(), law.end());
      ExpectNear(probabilities, name + "." + kind + ".probs");
      EXPECT_EQ(!block.confidence_logits.empty(), model_->info().has_confidence);
      EXPECT_EQ(facts.contains("confidence_logits"), model_->info().has_confidence);
      if (model_->info().has_confidence) {
        ExpectNear(block.confidence_logits, name + "." + kind + ".confidence_logits");
      }
    }
    // The drawer in service, greedy.
    const DraftedBlock block = driver.Draft({&sequence})[0];
    EXPECT_EQ(block.tokens, prompt.at("greedy").at("tokens").get<std::vector<int32_t>>());
  }

  ThreadPool pool_{2};
  std::unique_ptr<DraftModel> model_;
  json facts_;
  std::optional<ExpectedTensors> expected_;
};

TEST_P(GoldenForward, ContextBlockAndDraws) {
  if (model_ == nullptr) return;
  auto* const dspark = dynamic_cast<DSpark*>(model_.get());
  auto* const eagle3 = dynamic_cast<Eagle3*>(model_.get());
  ASSERT_FALSE(facts_.at("prompts").empty());
  for (const auto& [name, prompt] : facts_.at("prompts").items()) {
    const std::vector<float> rows = Rows(name);
    ExpectNear(rows, name + (eagle3 != nullptr ? ".fc_rows" : ".context_rows"));
    DraftDriver driver(*model_, 32);
    DraftDriver::Sequence sequence;
    driver.Append(sequence, rows, TokensOf(prompt));
    const int32_t n = sequence.start();
    ASSERT_EQ(n, prompt.at("start").get<int32_t>());
    if (dspark != nullptr) {
      for (size_t layer = 0; layer < model_->kv_layout().layers.size(); ++layer) {
        const std::string prefix = name + ".layer" + std::to_string(layer);
        ExpectNear(driver.Keys(sequence, layer, n), prefix + ".context_k");
        ExpectNear(driver.Values(sequence, layer, n), prefix + ".context_v");
      }
      driver.Draft({&sequence});
      ExpectNear(dspark->block_hidden(), name + ".block_hidden");
      ExpectNear(dspark->base_logits(), name + ".base_logits");
    } else {
      ExpectNear(driver.Keys(sequence, 0, n), name + ".context_k");
      ExpectNear(driver.Values(sequence, 0, n), name + ".context_v");
      // The first step's out, seen by the drawer that it is drawn with.
      class FirstOut : public TokenDrawer {
       public:
        explicit FirstOut(const Eagle3& model) : model_(model) {}
        int32_t Draw(const DraftRequest&, int32_t k, const DraftLogits&, DrawScratch&,
                     std::vector<speculation::TokenProbability>*) const override {
          if (k == 1) out.assign(model_.out(), model_.out() + model_.info().hidden_size);
          return 0;
        }
        mutable std::vector<float> out;

       private:
        const Eagle3& model_;
      };
      const FirstOut drawer(*eagle3);
      driver.DraftWith(drawer, sequence);
      ExpectNear(drawer.out, name + ".last_hidden");
    }
    CheckDraws(driver, sequence, name, prompt);
  }
}

// Whatever the order of a reduced vocabulary that holds all tokens, and however the head scores them.
TEST_P(GoldenForward, GreedyDraftsAreTheSameByTopCandidatesAndThroughAPermutedVocabulary) {
  if (model_ == nullptr) return;
  TestCheckpoint permuted(GetParam().drafter);
  const int32_t vocab = model_->info().vocab_size;
  std::vector<int32_t> reversed(vocab);
  for (int32_t i = 0; i < vocab; ++i) reversed[i] = vocab - 1 - i;
  permuted.ReduceVocabulary(reversed);
  for (const int32_t top_k : {0, vocab}) {
    DraftModelOptions options = ExactOptions(permuted.Write());
    options.markov_top_k = top_k;
    const auto model = LoadDraftModel(options, pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    for (const auto& [name, prompt] : facts_.at("prompts").items()) {
      DraftDriver driver(**model, 32);
      DraftDriver::Sequence sequence;
      driver.Append(sequence, Rows(name), TokensOf(prompt));
      const DraftedBlock block = driver.Draft({&sequence})[0];
      EXPECT_EQ(block.tokens, prompt.at("greedy").at("tokens").get<std::vector<int32_t>>());
      if (model_->info().has_confidence) {
        ExpectNear(block.confidence_logits, name + ".greedy.confidence_logits");
      }
    }
  }
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// Pieces with drafts between them: blocks leave nothing behind, and the context is what it is at once.
TEST_P(GoldenForward, AContextThatArrivesInPiecesIsTheSame) {
  if (model_ == nullptr) return;
  auto* const dspark = dynamic_cast<DSpark*>(model_.get());
  for (const auto& [name, prompt] : facts_.at("prompts").items()) {
    const std::vector<float> rows = Rows(name);
    const std::vector<int32_t> tokens = TokensOf(prompt);
    const auto n = static_cast<int32_t>(tokens.size()) - 1;
    std::vector<int32_t> pieces = {n / 3, n / 4, n - n / 3 - n / 4};
    if (prompt.contains("pieces")) pieces = prompt.at("pieces").get<std::vector<int32_t>>();
    const std::vector<int32_t> anchors = prompt.value("pieces_anchors", std::vector<int32_t>());

    DraftDriver driver(*model_, 64);
    DraftDriver::Sequence at_once, in_pieces;
    driver.Append(at_once, rows, tokens);
    const size_t width = model_->info().projection.width;
    int32_t done = 0;
    for (size_t j = 0; j < pieces.size(); ++j) {
      std::vector<int32_t> part(tokens.begin() + done, tokens.begin() + done + pieces[j] + 1);
      if (j < anchors.size()) part.back() = anchors[j];
      driver.Append(in_pieces, std::span(rows).subspan(done * width, pieces[j] * width), part);
      done += pieces[j];
      driver.Draft({&in_pieces});
      const std::string key = name + ".piece" + std::to_string(j) + ".block_hidden";
      if (expected_->Has(key) && dspark != nullptr) ExpectNear(dspark->block_hidden(), key);
    }
    for (size_t layer = 0; layer < model_->kv_layout().layers.size(); ++layer) {
      EXPECT_TRUE(SameBits(driver.Keys(at_once, layer, n), driver.Keys(in_pieces, layer, n)));
      EXPECT_TRUE(SameBits(driver.Values(at_once, layer, n), driver.Values(in_pieces, layer, n)));
    }
    const auto first = driver.Draft({&at_once})[0], second = driver.Draft({&in_pieces})[0];
    EXPECT_EQ(first.tokens, second.tokens);
    EXPECT_TRUE(SameBits(first.confidence_logits, second.confidence_logits));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenForward, ::testing::ValuesIn(DraftCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::drafter
