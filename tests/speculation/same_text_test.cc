// The full product in one process: whatever the drafter, the policy and the batch, each sequence's text is
// byte for byte what it is alone and without drafts. On every pair of golden/drafters with a trained drafter,
// and on the targets of the Eagle3 cases.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "common/formats/test_files.h"
#include "common/models/model.h"
#include "drafter/models/golden_drafts.h"
#include "drafter/models/ngram.h"
#include "drafter/models/random.h"
#include "drafter/models/scripted.h"
#include "tests/speculation/pair.h"
#include "tests/speculation/strip_heads.h"

namespace tandem {
namespace {

using testing::PairLink;
using verifier::testing::FakeGateway;
using verifier::testing::Outcome;

constexpr int kSequences = 64;
constexpr int kMaxTokens = 48;

const std::vector<std::string>& Policies() {
  static const auto& policies =
      *new std::vector<std::string>{"off",     "fixed:0", "fixed:1", "fixed:2", "fixed:3",      "fixed:4",
                                    "fixed:5", "fixed:6", "fixed:7", "prefix",  "threshold:0.5"};
  return policies;
}

class SameTextTest : public ::testing::Test {
 protected:
  void LoadTarget(const std::filesystem::path& directory) {
    const auto checkpoint = formats::Checkpoint::Open(directory);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    models::ModelOptions options;
    options.max_step_tokens = 512;
    auto model = models::LoadModel(**checkpoint, options, pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }

  // Temperatures 0, 0.7 and 1, with and without penalties, over all prompts.
  verifier::Admission Request(int number) const {
    verifier::Admission request;
    request.tokens = prompts_[number % prompts_.size()];
    request.prompt_length = static_cast<int32_t>(request.tokens.size());
    request.max_tokens = kMaxTokens;
    request.stop_token_ids = model_->config().eos_token_ids;
    request.sampling.temperature = std::array{0.0f, 0.7f, 1.0f}[number % 3];
    request.sampling.seed = 1000 + number;
    if (number / 3 % 2 == 1) {
      request.sampling.repetition_penalty = 1.1f;
      request.sampling.frequency_penalty = 0.3f;
      request.sampling.presence_penalty = 0.2f;
    }
    if (number % 5 == 0) request.num_logprobs = 2;
    return request;
  }

  std::unique_ptr<verifier::Engine> MakeEngine(const std::string& policy, bool speculates) {
    verifier::EngineOptions options;
    options.kv_bytes = int64_t{64} << 20;
    options.prefix_cache = speculates;
    options.speculation.num_drafters = speculates ? 1 : 0;
    options.speculation.policy = *verifier::ParseWindowPolicy(policy);
    auto engine = verifier::Engine::Create(options, *model_, pool_, Clock::Real());
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }

  void RunAlone() {
    for (int i = 0; i < kSequences; ++i) {
      const auto engine = MakeEngine("off", false);
      FakeGateway gateway(*engine, 1);
      const uint64_t id = gateway.Submit(Request(i));
      verifier::testing::RunToEnd(*engine, {&gateway});
      alone_.push_back(gateway.outcome(id));
    }
  }

  // Sequences [0, n) together, with drafts of `model`; the engine's counters at the end.
  verifier::EngineStats ExpectSame(drafter::DraftModel& model, const std::string& policy, int n) {
    const auto engine = MakeEngine(policy, true);
    const auto draft_engine = drafter::DraftEngine::Create({}, model);
    EXPECT_TRUE(draft_engine.ok()) << draft_engine.status();
    PairLink link(**draft_engine, 0);
    EXPECT_TRUE(engine->OpenDrafter(0, link.Open(engine->options().speculation)).ok());
    FakeGateway gateway(*engine, 1);
    std::vector<uint64_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(gateway.Submit(Request(i)));
    testing::RunPair(*engine, Clock::Real(), {&gateway}, {&link});
    for (int i = 0; i < n; ++i) {
      EXPECT_EQ(gateway.outcome(ids[i]).output, alone_[i].output) << "sequence " << i;
      EXPECT_EQ(gateway.outcome(ids[i]).logprobs, alone_[i].logprobs) << "sequence " << i;
      EXPECT_EQ(gateway.outcome(ids[i]).end, alone_[i].end) << "sequence " << i;
    }
    EXPECT_EQ((*draft_engine)->stats().sequences, 0);
    return engine->stats();
  }

  void ExpectSameWithAllPolicies(drafter::DraftModel& model, bool trained) {
    for (const std::string& policy : Policies()) {
      for (const int n : {1, kSequences}) {
        SCOPED_TRACE(fmt::format("{} policy {} of {}", model.info().algorithm, policy, n));
        const verifier::EngineStats stats = ExpectSame(model, policy, n);
        const bool checks = policy.starts_with("fixed:") && policy != "fixed:0";
        EXPECT_TRUE(!checks || stats.checked > 0);
        if (trained && checks && n > 1) {
          EXPECT_GT(stats.accepted, 0);
          EXPECT_GT(stats.checked, stats.accepted) << "nothing was rejected";
        }
      }
    }
  }

  ThreadPool pool_{2};
  std::unique_ptr<models::Model> model_;
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<Outcome> alone_;
};

class TrainedPairTest : public SameTextTest {
 protected:
  void SetUp() override {
    LoadTarget(Directory() / "target");
    const auto examples =
        nlohmann::json::parse(tandem::testing::ReadFile(Directory() / "greedy_examples.json"));
    for (const auto& json : examples) prompts_.push_back(json.at("prompt_ids").get<std::vector<int32_t>>());
    ASSERT_FALSE(prompts_.empty());
    RunAlone();
  }
  static std::filesystem::path Directory() { return tandem::testing::GoldenDir() / "drafters/trained_pair"; }

  std::unique_ptr<drafter::DraftModel> Load(const std::filesystem::path& path) {
    drafter::DraftModelOptions options;
    options.path = path;
    auto model = drafter::LoadDraftModel(options, pool_);
    EXPECT_TRUE(model.ok()) << model.status();
    return *std::move(model);
  }
};

TEST_F(TrainedPairTest, DSpark) { ExpectSameWithAllPolicies(*Load(Directory() / "drafter"), true); }

TEST_F(TrainedPairTest, DFlash) {
  const formats::TestDirectory stripped;
  tandem::testing::StripHeads(Directory() / "drafter", stripped.path());
  ExpectSameWithAllPolicies(*Load(stripped.path()), true);
}

TEST_F(TrainedPairTest, Ngram) { ExpectSameWithAllPolicies(*drafter::NewNgramDrafter({}), false); }

TEST_F(TrainedPairTest, Random) {
  const auto vocab = static_cast<int32_t>(model_->config().vocab_size);
  ExpectSameWithAllPolicies(*drafter::NewRandomDrafter({.vocab_size = vocab}), false);
}

TEST_F(TrainedPairTest, ScriptsThatAreRightOrWrong) {
  drafter::Script script;
  script.vocab_size = static_cast<int32_t>(model_->config().vocab_size);
  script.has_confidence = true;
  script.confidence = 30;  // sure of itself, and wrong where no text fits
  script.rule = drafter::Script::Rule::kSuccessor;
  for (int i = 0; i < kSequences; i += 2) {
    script.texts.push_back(Request(i).tokens);
    script.texts.back().insert(script.texts.back().end(), alone_[i].output.begin(), alone_[i].output.end());
  }
  ExpectSameWithAllPolicies(*drafter::NewScriptedDrafter(script), true);
}

// A drafter of random weights is hardly ever right; at temperature 1 the shared noise makes up for some of
// it.
class Eagle3Test : public SameTextTest {};

TEST_F(Eagle3Test, EveryCase) {
  for (const drafter::DraftCase& c : drafter::DraftCases()) {
    const auto facts = nlohmann::json::parse(tandem::testing::ReadFile(c.directory / "facts.json"));
    if (facts.value("algorithm", "") != "eagle3") continue;
    SCOPED_TRACE(c.name);
    drafter::DraftModelOptions options;
    options.path = c.drafter;
    const auto model = drafter::LoadDraftModel(options, pool_);
    if (!model.ok() && drafter::LoadCase(c, pool_) == nullptr) continue;  // printed, or failed
    ASSERT_TRUE(model.ok()) << model.status();
    LoadTarget(c.target);
    prompts_.clear();
    alone_.clear();
    std::mt19937 random(7);
    for (int i = 0; i < 8; ++i) {
      std::vector<int32_t> prompt(5 + random() % 40);
      for (int32_t& token : prompt) token = static_cast<int32_t>(random() % model_->config().vocab_size);
      prompts_.push_back(std::move(prompt));
    }
    RunAlone();
    int64_t accepted = 0, checked = 0;
    for (const char* policy : {"fixed:1", "fixed:4", "fixed:7"}) {
      const verifier::EngineStats stats = ExpectSame(**model, policy, kSequences);
      accepted += stats.accepted;
      checked += stats.checked;
    }
    EXPECT_GT(accepted, 0);
    EXPECT_GT(checked, accepted);
  }
}

}  // namespace
}  // namespace tandem
