// Published models against golden/smollm2: exact in f32, close with int8 activations and bf16 KV.
//
// The reference's own ids are fed as history (teacher forcing), in ragged steps of as many items as fit;
// batch_invariance_test shows that decoding token by token gives the same bits, and the shortest items are
// decoded so here too.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/base/sha256.h"
#include "common/formats/checkpoint.h"
#include "common/models/golden_case.h"
#include "common/models/model.h"
#include "common/models/model_driver.h"
#include "common/text/tokenizer.h"
#include "tests/support/golden.h"
#include "tests/support/pulled_file.h"

namespace tandem::models {
namespace {

using Item = nlohmann::json;

constexpr int kMaxStepTokens = 256;

// What the model says at one generated position, given the reference's ids before it.
struct Position {
  int32_t argmax = 0;
  double log_prob = 0;              // of the reference's id
  std::vector<float> top_logprobs;  // of the reference's top ids, where there are any
};

double LogSumExp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

// A published file and its references.
struct Published {
  const char* golden;  // golden/smollm2/<golden>.json and .safetensors
  std::filesystem::path (*file)();
  const char* pull;  // what to say if it is missing
  int short_item;    // generated tokens; items up to that many are decoded token by token too
  // With int8 activations and bf16 KV: shares of positions, of all and of those with a margin above 0.5, that
  // keep the reference's choice, and how far the perplexity of its texts may go.
  double equal, equal_clear, perplexity;
};

void PrintTo(const Published& model, std::ostream* os) { *os << model.golden; }

const Published kPublished[] = {
    {"smollm2", testing::SmolLM2File, "smollm2-135m", 16, 0.96, 0.99, 0.01},
    {"gemma3", [] { return testing::PulledFile("gemma3-270m"); }, "gemma3-270m", 32, 0.96, 0.99, 0.01},
};

class PublishedGolden : public ::testing::TestWithParam<Published> {
 protected:
  void SetUp() override {
    const std::filesystem::path file = GetParam().file();
    if (!std::filesystem::exists(file)) {
      if (testing::IsOffline()) GTEST_SKIP() << file << " is not here and TANDEM_OFFLINE=1";
      FAIL() << file << " is missing: run `tandem pull " << GetParam().pull << "`, or set TANDEM_OFFLINE=1";
    }
    const std::filesystem::path path = testing::GoldenDir() / "smollm2" / GetParam().golden;
    golden_ = nlohmann::json::parse(testing::ReadFile(path.string() + ".json"), nullptr, false);
    top_.emplace(path.string() + ".safetensors");
    auto checkpoint = formats::Checkpoint::Open(file);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    ASSERT_TRUE(golden_.is_object() && !golden_.at("items").empty());
  }

  std::unique_ptr<Model> Load(kernels::ActivationType activations, kernels::KvType kv_type) {
    auto model = LoadModel(*checkpoint_,
                           {.activation_type = activations,
                            .kv_type = kv_type,
                            .max_step_tokens = kMaxStepTokens,
                            .max_logits_rows = kMaxStepTokens,
                            .max_positions = 2048},
                           pool_);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }

  // Per item its generated positions.
  std::vector<std::vector<Position>> TeacherForced(Model& model);

  // The same in f32, computed once per model.
  const std::vector<std::vector<Position>>& Exact() {
    static std::map<std::string, std::vector<std::vector<Position>>> exact;
    auto& positions = exact[GetParam().golden];
    if (positions.empty()) {
      positions = TeacherForced(*Load(kernels::ActivationType::kF32, kernels::KvType::kF32));
    }
    return positions;
  }

  static std::string TopName(size_t item, const char* what) { return fmt::format("{}.top_{}", item, what); }

  nlohmann::json golden_;
  std::optional<ExpectedTensors> top_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  ThreadPool pool_{2};
};

INSTANTIATE_TEST_SUITE_P(, PublishedGolden, ::testing::ValuesIn(kPublished),
                         [](const auto& info) { return std::string(info.param.golden); });

// One item on its way through the model.
struct Running {
  size_t item;
  std::vector<int32_t> prompt, output;
  std::vector<int32_t> history;  // both, without the last token, which nothing follows
  ModelDriver::Sequence sequence = {};
  std::vector<Position> positions = {};

  int32_t rows_left() const { return static_cast<int32_t>(history.size()) - sequence.position; }

  // The next `count` rows, with logits from the prompt's last token on.
  ModelDriver::Piece NextPiece(int32_t count) {
    const auto begin = history.begin() + sequence.position;
    ModelDriver::Piece piece = {&sequence, {begin, begin + count}, {}};
    for (int32_t i = 0; i < count; ++i) {
      if (sequence.position + i + 1 >= static_cast<int32_t>(prompt.size())) piece.logits_at.push_back(i);
    }
    return piece;
  }

  // `top_ids` [output, n] of the reference, may be empty.
  void Record(std::span<const float> logits, std::span<const int32_t> top_ids) {
    const size_t at = positions.size(), num_top = top_ids.size() / output.size();
    const double log_sum = LogSumExp(logits);
    Position& position = positions.emplace_back();
    position.argmax = ModelDriver::Argmax(logits);
    position.log_prob = logits[output[at]] - log_sum;
    for (const int32_t id : top_ids.subspan(at * num_top, num_top)) {
      position.top_logprobs.push_back(static_cast<float>(logits[id] - log_sum));
    }
  }
};

std::vector<Running> AllItems(const nlohmann::json& golden) {
  std::vector<Running> items;
  for (const Item& item : golden.at("items")) {
    Running& running =
        items.emplace_back(Running{items.size(), item.at("prompt_ids"), item.at("output_ids"), {}});
    running.history = running.prompt;
    running.history.insert(running.history.end(), running.output.begin(), running.output.end() - 1);
  }
  return items;
}

std::vector<std::vector<Position>> PublishedGolden::TeacherForced(Model& model) {
  std::vector<Running> items = AllItems(golden_);
  int num_blocks = 0;  // all items at once
  for (const Running& running : items) {
    num_blocks += static_cast<int>(running.history.size()) / kernels::kKvBlockPositions + 1;
  }
  ModelDriver driver(model, num_blocks);
  while (true) {
    std::vector<ModelDriver::Piece> pieces;
    std::vector<Running*> members;
    int32_t budget = kMaxStepTokens;
    for (Running& running : items) {
      const int32_t count = std::min(budget, running.rows_left());
      if (count == 0) continue;
      budget -= count;
      pieces.push_back(running.NextPiece(count));
      members.push_back(&running);
    }
    if (pieces.empty()) break;
    const auto results = driver.Step(pieces);
    for (size_t m = 0; m < members.size(); ++m) {
      Running& running = *members[m];
      const std::string name = TopName(running.item, "ids");
      const std::vector<int32_t> top_ids = top_->Has(name) ? top_->Ints(name) : std::vector<int32_t>();
      for (const auto& logits : results[m].logits) running.Record(logits, top_ids);
    }
  }
  std::vector<std::vector<Position>> positions;
  for (Running& running : items) positions.push_back(std::move(running.positions));
  return positions;
}

double MeanNegativeLogProb(const std::vector<std::vector<Position>>& items) {
  double sum = 0;
  int count = 0;
  for (const auto& positions : items) {
    for (const Position& position : positions) sum -= position.log_prob, ++count;
  }
  return sum / count;
}

TEST_P(PublishedGolden, FileIsTheOneOfTheReference) {
  const auto sha256 = Sha256OfFile(GetParam().file());
  ASSERT_TRUE(sha256.ok()) << sha256.status();
  EXPECT_EQ(*sha256, golden_.at("sha256"));
}

TEST_P(PublishedGolden, PromptsHaveTheReferencesIds) {
  const auto sources = checkpoint_->ReadTextSources();
  ASSERT_TRUE(sources.ok()) << sources.status();
  const auto tokenizer = text::Tokenizer::Create(*sources);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  for (const Item& item : golden_.at("items")) {
    const bool rendered = item.contains("messages");  // by the chat template, which writes all there is
    const auto ids = (*tokenizer)->Encode(item.at("prompt_text").get<std::string>(), rendered);
    ASSERT_TRUE(ids.ok()) << ids.status();
    std::vector<int32_t> prompt;
    const auto prefix = (*tokenizer)->prompt_prefix();
    if (!rendered) prompt.assign(prefix.begin(), prefix.end());
    prompt.insert(prompt.end(), ids->begin(), ids->end());
    EXPECT_EQ(prompt, item.at("prompt_ids").get<std::vector<int32_t>>());
  }
}

TEST_P(PublishedGolden, GreedyIdsAndLogProbsAreTheReferencesInF32) {
  const auto& results = Exact();
  int num_compared = 0, num_top = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    const Item& item = golden_.at("items")[i];
    const std::vector<int32_t> output = item.at("output_ids");
    const std::vector<double> margins = item.at("margins");
    ASSERT_EQ(results[i].size(), output.size());
    for (size_t at = 0; at < output.size() && margins[at] > 1e-3; ++at, ++num_compared) {
      ASSERT_EQ(results[i][at].argmax, output[at]) << "item " << i << ", output " << at;
    }
    if (!top_->Has(TopName(i, "logprobs"))) continue;
    const std::vector<float> expected = top_->Floats(TopName(i, "logprobs"));
    std::vector<float> actual;
    for (const Position& position : results[i]) {
      actual.insert(actual.end(), position.top_logprobs.begin(), position.top_logprobs.end());
    }
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t k = 0; k < actual.size(); ++k, ++num_top) {
      ASSERT_NEAR(actual[k], expected[k], 5e-4) << "item " << i << ", log-probability " << k;
    }
  }
  EXPECT_GT(num_compared, 0);
  EXPECT_GT(num_top, 0) << "no item with top_logprobs";
}

TEST_P(PublishedGolden, DecodingShortItemsTokenByTokenGivesTheReferencesInF32) {
  const auto model = Load(kernels::ActivationType::kF32, kernels::KvType::kF32);
  ModelDriver driver(*model, 64);  // 1024 positions
  int num_items = 0;
  for (const Item& item : golden_.at("items")) {
    const std::vector<int32_t> output = item.at("output_ids");
    if (std::cmp_greater(output.size(), GetParam().short_item) || item.at("min_margin") <= 1e-3) continue;
    const std::vector<int32_t> prompt = item.at("prompt_ids");
    if (prompt.size() > kMaxStepTokens) continue;  // Greedy takes a prompt in one step
    EXPECT_EQ(driver.Greedy(prompt, static_cast<int>(output.size())), output);
    ++num_items;
  }
  EXPECT_GT(num_items, 0);
}

TEST_P(PublishedGolden, Int8ActivationsAndBF16KvStayClose) {
  const double exact = MeanNegativeLogProb(Exact());
  const auto results = TeacherForced(*Load(kernels::ActivationType::kInt8, kernels::KvType::kBF16));
  int num_all = 0, equal_all = 0, num_clear = 0, equal_clear = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    const Item& item = golden_.at("items")[i];
    for (size_t at = 0; at < results[i].size(); ++at) {
      const bool equal = results[i][at].argmax == item.at("output_ids")[at];
      const bool clear = item.at("margins")[at] > 0.5;
      ++num_all;
      equal_all += equal;
      num_clear += clear;
      equal_clear += clear && equal;
    }
  }
  const double ratio = std::exp(MeanNegativeLogProb(results) - exact);
  std::printf("same choice: %d of %d, with margin > 0.5 %d of %d; perplexity %.4f in f32, times %.4f\n",
              equal_all, num_all, equal_clear, num_clear, std::exp(exact), ratio);
  ASSERT_GT(num_clear, 0);
  EXPECT_GE(equal_all, GetParam().equal * num_all);
  EXPECT_GE(equal_clear, GetParam().equal_clear * num_clear);
  EXPECT_NEAR(ratio, 1.0, GetParam().perplexity);
}

}  // namespace
}  // namespace tandem::models
