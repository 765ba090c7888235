// Rejection gives the target's law, whatever the windows, as long as nothing looks ahead (docs/numerics.md):
// samples of the first tokens with and without speculation, compared by chi-square, on a real pair; and two
// schedulers that look ahead, which the same comparison finds out.
//
// TANDEM_LAW_SEED chooses other samples; a right program then fails once in ten thousand comparisons.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "common/formats/test_files.h"
#include "common/models/model_driver.h"
#include "common/sampling/law_test.h"
#include "common/sampling/philox.h"
#include "common/sampling/rejection.h"
#include "drafter/models/golden_drafts.h"
#include "drafter/models/token_drawer.h"
#include "tests/speculation/pair.h"
#include "verifier/scheduling/step_time_cache.h"

namespace tandem {
namespace {

using sampling::CompareSamples;
using sampling::CompareWithLaw;
using sampling::LawComparison;
using sampling::SampleCounts;
using testing::PairLink;
using verifier::testing::FakeGateway;

constexpr double kLevel = 1e-4;
constexpr double kPower = 0.999;
constexpr int kSamples = 20000;
constexpr int kTokens = 3;  // of each sample
constexpr float kTemperature = 1.0f;

uint64_t Seed() {
  const char* seed = std::getenv("TANDEM_LAW_SEED");
  return seed == nullptr ? 1 : std::strtoull(seed, nullptr, 10);
}

// Step times by decode rows; between and behind the given ones as StepTimeModel has it.
verifier::StepTimeModel StepTimes(const std::function<double(int)>& seconds_of) {
  verifier::StepTimeParameters parameters;
  parameters.num_known_points = static_cast<int>(verifier::kTableDecodeRows.size());
  for (size_t i = 0; i < verifier::kTableDecodeRows.size(); ++i) {
    parameters.table_seconds[i] = seconds_of(verifier::kTableDecodeRows[i]);
  }
  return *verifier::StepTimeModel::FromParameters(parameters);
}

void ExpectSameLaw(const SampleCounts& got, const SampleCounts& want) {
  const LawComparison c = CompareSamples(got, want);
  EXPECT_GT(c.degrees_of_freedom, 10);
  EXPECT_GT(c.p_value, kLevel) << "chi-square " << c.statistic << " of " << c.degrees_of_freedom
                               << " degrees";
}

// Found now, and with samples of this size nearly always.
void ExpectOtherLaw(const LawComparison& c) {
  EXPECT_LT(c.p_value, kLevel) << "chi-square " << c.statistic << " of " << c.degrees_of_freedom
                               << " degrees";
  EXPECT_GT(sampling::Power(sampling::LeastNoncentrality(c), c.degrees_of_freedom, kLevel), kPower)
      << "chi-square " << c.statistic << " of " << c.degrees_of_freedom << " degrees";
}

// dspark.md 6.5, with the functions in service: drafts of q, windows by ChooseWindows, acceptance by
// VerifyDraft, all with the noise of a sequence's seed.
TEST(RejectionLaw, OfTheCounterexampleIsThatOfTheTargetUnlessTheSearchLooksAhead) {
  const auto path = testing::GoldenDir() / "drafters/tables/scheduler.json";
  const auto example = nlohmann::json::parse(testing::ReadFile(path)).at("counterexample");
  const std::vector<float> p = example["p"], q = example["q"];
  const std::vector<double> step_seconds = example["step_seconds"];
  ASSERT_GE(step_seconds.size(), 3u);
  const verifier::StepTimeModel step_time = StepTimes([&](int rows) {
    return rows <= 2 ? step_seconds[rows - 1]
                     : step_seconds[1] + (rows - 2) * (step_seconds[2] - step_seconds[1]);
  });
  for (const bool no_look_ahead : {true, false}) {
    const verifier::StepLoad load = {
        .step_time = &step_time, .num_anchors = 1, .max_draft_rows = 2, .no_look_ahead = no_look_ahead};
    SampleCounts counts;
    for (int i = 0; i < kSamples; ++i) {
      const uint64_t seed = Seed() * kSamples + i;
      const int32_t draft = sampling::ArgmaxWithNoise(q, seed, 1, drafter::DrafterNoiseTag(1, 1));
      const std::vector<double> survivals = example[draft == 0 ? "survival_if_A" : "survival_if_B"];
      const verifier::DraftedSequence sequence = {.order = 1, .survivals = survivals};
      std::vector<int> windows;
      verifier::ChooseWindows({}, load, {&sequence, 1}, windows);
      ++counts[windows[0] == 0 ? sampling::DrawBonus(p, seed, 1, 1)
                               : sampling::VerifyDraft(draft, p, q, seed, 1, 1).token];
    }
    const LawComparison target = CompareWithLaw(counts, {{0, p[0]}, {1, p[1]}});
    if (no_look_ahead) {
      EXPECT_GT(target.p_value, kLevel);
      continue;
    }
    ExpectOtherLaw(target);
    const std::vector<double> wrong = example["global_search"]["law_of_first_token"];
    EXPECT_GT(CompareWithLaw(counts, {{0, wrong[0]}, {1, wrong[1]}}).p_value, kLevel);
  }
}

// The first tokens of many sequences of a real pair.
class TrainedPairLaw : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto directory = testing::GoldenDir() / "drafters/trained_pair";
    const auto checkpoint = formats::Checkpoint::Open(directory / "target");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    auto model = models::LoadModel(**checkpoint, {.max_step_tokens = 512, .max_logits_rows = 512}, pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto draft_model = drafter::LoadDraftModel({.path = directory / "drafter"}, pool_);
    ASSERT_TRUE(draft_model.ok()) << draft_model.status();
    draft_model_ = *std::move(draft_model);
    FindContexts(nlohmann::json::parse(testing::ReadFile(directory / "greedy_examples.json")));
  }

  // Beginnings of the target's own texts behind which it is rather sure of the next token and least sure of
  // the one after that, which is the first that can be drafted. One position more than whole blocks, so that
  // all but the last is found in the prefix cache.
  void FindContexts(const nlohmann::json& examples) {
    std::multimap<double, std::vector<int32_t>, std::greater<>> found;
    for (const auto& example : examples) {
      std::vector<int32_t> tokens = example.at("prompt_ids");
      for (const int32_t token : example.at("greedy_ids")) tokens.push_back(token);
      models::ModelDriver driver(*model_, 64);
      models::ModelDriver::Sequence sequence;
      std::vector<int32_t> all(tokens.size());
      std::iota(all.begin(), all.end(), 0);
      const auto rows = driver.Step({{&sequence, tokens, all}})[0].logits;
      for (size_t i = kernels::kKvBlockPositions; i + 2 < tokens.size(); i += kernels::kKvBlockPositions) {
        const std::vector<int32_t> beginning(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(i) + 1);
        found.emplace(Entropy(rows[i + 1]) - Entropy(rows[i]), beginning);
      }
    }
    for (const auto& [score, tokens] : found) {
      if (contexts_.size() == kContexts) break;
      if (std::ranges::find(contexts_, tokens) == contexts_.end()) contexts_.push_back(tokens);
    }
    ASSERT_EQ(contexts_.size(), kContexts);
  }
  static double Entropy(const std::vector<float>& logits) {
    double entropy = 0;
    for (const double p : drafter::Softmax(logits, kTemperature)) entropy -= p > 0 ? p * std::log(p) : 0;
    return entropy;
  }

  // Each sample has a seed of its own; `mutate` changes what the drafter says on its way to the verifier.
  SampleCounts Sample(const std::string& policy,
                      const std::function<void(speculation::DraftBatch&)>& mutate = nullptr) {
    const formats::TestDirectory directory;
    verifier::EngineOptions options;
    options.kv_bytes = int64_t{64} << 20;
    options.max_draft_tokens = draft_model_->info().block_size;
    options.speculation.num_drafters = 1;
    options.speculation.policy = *verifier::ParseWindowPolicy(policy);
    options.speculation.acceptance = speculation::AcceptanceMode::kRejection;
    // With 64 sequences a row costs a third of a step without drafts, shared among them: `prefix` cuts what
    // is not likely to stand. The clock stands still, so that no step teaches the model other times.
    options.step_time_cache_path = directory.path() / "step_time.json";
    const FakeClock clock;
    EXPECT_TRUE(SaveStepTime(StepTimes([](int rows) { return 200 + rows; }), options.step_time_cache_path,
                             model_->NumericsId())
                    .ok());
    auto engine = verifier::Engine::Create(options, *model_, pool_, clock);
    EXPECT_TRUE(engine.ok()) << engine.status();
    const auto draft_engine = drafter::DraftEngine::Create({}, *draft_model_);
    EXPECT_TRUE(draft_engine.ok()) << draft_engine.status();
    PairLink link(**draft_engine, 0);
    link.on_batch = mutate;
    EXPECT_TRUE((*engine)->OpenDrafter(0, link.Open((*engine)->options().speculation)).ok());
    FakeGateway gateway(**engine, 1);
    std::vector<uint64_t> ids;
    ++num_runs_;
    for (int i = 0; i < kSamples; ++i) {
      verifier::Admission request;
      request.tokens = contexts_[i % kContexts];
      request.prompt_length = static_cast<int32_t>(request.tokens.size());
      request.max_tokens = kTokens + kRoom;
      request.sampling.temperature = kTemperature;
      request.sampling.seed = (Seed() * 100 + num_runs_) * kSamples + i;
      ids.push_back(gateway.Submit(std::move(request)));
    }
    windows_.assign(options.max_draft_tokens + 1, 0);
    testing::RunPair(**engine, clock, {&gateway}, {&link}, [&] {
      for (const int window : (*engine)->last_step().windows) ++windows_[window];
    });
    SampleCounts counts;
    for (int i = 0; i < kSamples; ++i) {
      const std::vector<int32_t>& output = gateway.outcome(ids[i]).output;
      EXPECT_GE(output.size(), static_cast<size_t>(kTokens));
      uint64_t cell = i % kContexts;
      for (int k = 0; k < kTokens && k < static_cast<int>(output.size()); ++k) {
        cell = cell * model_->config().vocab_size + output[k];
      }
      ++counts[cell];
    }
    return counts;
  }

  // Windows of the last run with some drafts checked and some not.
  int64_t NumWindows(int from, int to) const {
    return std::accumulate(windows_.begin() + from, windows_.begin() + to + 1, int64_t{0});
  }

  static constexpr size_t kContexts = 4;
  static constexpr int kRoom = 1;  // tokens behind those that are compared: two drafts fit a first round
  ThreadPool pool_{1};
  std::unique_ptr<models::Model> model_;
  std::unique_ptr<drafter::DraftModel> draft_model_;
  std::vector<std::vector<int32_t>> contexts_;
  int num_runs_ = 0;
  std::vector<int> windows_;  // of the last run: how many of each length
};

// Cuts every window in front of the first draft that q holds unlikely: a decision on a token by that token.
void CheckOnlyLikelyDrafts(speculation::DraftBatch& batch) {
  for (speculation::SequenceDraft& draft : batch.drafts) {
    size_t window = 0;
    const auto likely = [&](size_t k) {
      return std::ranges::any_of(draft.distributions[k], [&](const speculation::TokenProbability& pair) {
        return pair.token == draft.tokens[k] && pair.probability >= 0.3f;
      });
    };
    while (window < draft.tokens.size() && likely(window)) ++window;
    draft.tokens.resize(window);
    draft.confidence_logits.resize(window);
    draft.distributions.resize(window);
  }
}

TEST_F(TrainedPairLaw, IsTheTargetsUnlessWhoChecksLooksAtTheToken) {
  const SampleCounts off = Sample("off");
  ASSERT_EQ(NumWindows(1, kRoom + 1), 0);
  for (const char* policy : {"prefix", "threshold:0.5"}) {
    SCOPED_TRACE(policy);
    ExpectSameLaw(Sample(policy), off);
    // It does cut, and not everything.
    EXPECT_GT(NumWindows(0, 0), kSamples / 20);
    EXPECT_GT(NumWindows(1, kRoom + 1), kSamples / 20);
  }
  ExpectOtherLaw(CompareSamples(Sample("fixed:7", CheckOnlyLikelyDrafts), off));
}

}  // namespace
}  // namespace tandem
