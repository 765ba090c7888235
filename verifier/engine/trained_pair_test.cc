// The engine over a real model, the trained target of golden/drafters/trained_pair: its greedy texts, and the
// same text whatever is batched, chunked, cached, preempted or drafted.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/formats/checkpoint.h"
#include "tests/support/golden.h"
#include "verifier/engine/run_requests.h"

namespace tandem::verifier {
namespace {

struct Example {
  Admission request;
  std::vector<int32_t> greedy;  // expected, stop token included
};

class TrainedPairEngine : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto directory = tandem::testing::GoldenDir() / "drafters/trained_pair";
    const auto checkpoint = formats::Checkpoint::Open(directory / "target");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    models::ModelOptions options;
    options.activation_type = kernels::ActivationType::kF32;
    options.max_step_tokens = 256;
    auto model = models::LoadModel(**checkpoint, options, pool_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    const auto examples =
        nlohmann::json::parse(tandem::testing::ReadFile(directory / "greedy_examples.json"));
    for (const auto& json : examples) {
      Example example;
      example.request.tokens = json.at("prompt_ids").get<std::vector<int32_t>>();
      example.request.prompt_length = static_cast<int32_t>(example.request.tokens.size());
      example.greedy = json.at("greedy_ids").get<std::vector<int32_t>>();
      example.request.max_tokens = static_cast<int32_t>(example.greedy.size());
      example.request.stop_token_ids = model_->config().eos_token_ids;
      example.request.sampling.temperature = 0;
      examples_.push_back(std::move(example));
    }
    ASSERT_FALSE(examples_.empty());
  }

  EngineOptions Options(int blocks) const {
    EngineOptions options;
    options.kv_bytes = blocks * model_->kv_layout().block_bytes;
    return options;
  }

  std::vector<std::vector<int32_t>> Run(const EngineOptions& options, const std::vector<Admission>& requests,
                                        const std::vector<std::vector<int32_t>>& expected = {}) {
    return testing::RunRequests(*model_, pool_, options, requests, stats_, expected);
  }

  // Each example with its own temperature, seed and penalties, as often as makes `count`.
  std::vector<Admission> MixedRequests(size_t count) const {
    std::vector<Admission> requests;
    for (size_t i = 0; i < count; ++i) {
      Admission request = examples_[i % examples_.size()].request;
      request.sampling.seed = i;
      request.sampling.temperature = static_cast<float>(i % 4) * 0.5f;
      if (i % 3 == 1) request.sampling.top_p = 0.9f;
      if (i % 5 == 2) request.sampling.frequency_penalty = 0.4f;
      if (i % 5 == 3) request.sampling.repetition_penalty = 1.2f;
      requests.push_back(std::move(request));
    }
    return requests;
  }

  ThreadPool pool_{2};
  std::unique_ptr<models::Model> model_;
  std::vector<Example> examples_;
  EngineStats stats_;
};

TEST_F(TrainedPairEngine, GreedyTextsAreTheReferences) {
  std::vector<Admission> requests;
  std::vector<std::vector<int32_t>> expected;
  for (const Example& example : examples_) {
    requests.push_back(example.request);
    expected.push_back(example.greedy);
  }
  EXPECT_EQ(Run(Options(1024), requests), expected);
  EXPECT_EQ(Run(Options(1024), requests, expected), expected);
  EXPECT_GT(stats_.accepted, 0);
  EXPECT_LT(stats_.accepted, stats_.checked);
}

TEST_F(TrainedPairEngine, TheTextIsThatOfTheSequenceAlone) {
  const std::vector<Admission> requests = MixedRequests(64);
  std::vector<std::vector<int32_t>> alone;
  for (const Admission& request : requests) {
    EngineOptions options = Options(64);
    options.prefix_cache = false;
    alone.push_back(Run(options, {request}).at(0));
  }
  EngineOptions options = Options(2048);
  options.prefill_chunk = 16;
  EXPECT_EQ(Run(options, requests), alone);
  EXPECT_GT(stats_.cached_prompt_tokens, 0);
  options.prefill_chunk = 512;
  EXPECT_EQ(Run(options, requests), alone);
  EXPECT_EQ(Run(options, requests, alone), alone);
  EXPECT_EQ(Run(Options(40), requests), alone);
  EXPECT_GT(stats_.preemptions, 0);
  EXPECT_EQ(Run(Options(40), requests, alone), alone);
}

}  // namespace
}  // namespace tandem::verifier
