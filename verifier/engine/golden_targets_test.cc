// The engine over the golden targets of every family (sliding windows, shared K and V, layers of different
// shapes): the same text whatever is batched, chunked, cached, preempted or drafted, on any number of
// threads.
#include <gtest/gtest.h>

#include <random>

#include "common/models/golden_case.h"
#include "verifier/engine/run_requests.h"

namespace tandem::verifier {
namespace {

using models::GoldenCase;
using Outputs = std::vector<std::vector<int32_t>>;

constexpr int kRequests = 24;
constexpr int kMaxTokens = 40;

class GoldenTargetEngine : public ::testing::TestWithParam<GoldenCase> {
 protected:
  std::unique_ptr<models::Model> Load(ThreadPool& pool) {
    const auto checkpoint = models::OpenCase(GetParam());
    if (checkpoint == nullptr) return nullptr;
    auto model = models::LoadModel(*checkpoint, {.max_step_tokens = 256}, pool);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  // Lengths around multiples of blocks, all longer than the golden windows with what is generated; every
  // third begins as the one before, for the prefix cache.
  static std::vector<Admission> Requests(const models::Model& model) {
    std::mt19937 random(3);
    const int32_t lengths[] = {1, 15, 16, 33, 70, 130};
    std::vector<Admission> requests;
    for (int i = 0; i < kRequests; ++i) {
      Admission request;
      if (i % 3 == 2) request.tokens = requests.back().tokens;
      const auto length = static_cast<size_t>(lengths[i % 6]) + request.tokens.size();
      while (request.tokens.size() < length) {
        request.tokens.push_back(static_cast<int32_t>(random() % model.config().vocab_size));
      }
      request.prompt_length = static_cast<int32_t>(request.tokens.size());
      request.max_tokens = kMaxTokens;
      request.sampling.seed = i;
      request.sampling.temperature = static_cast<float>(i % 3) * 0.6f;
      requests.push_back(std::move(request));
    }
    return requests;
  }

  static EngineOptions Options(const models::Model& model, int blocks) {
    EngineOptions options;
    options.kv_bytes = blocks * model.kv_layout().block_bytes;
    return options;
  }
};

TEST_P(GoldenTargetEngine, TheTextIsThatOfTheSequenceAlone) {
  ThreadPool one_thread(1), pool(2);
  Outputs alone;
  EngineStats stats;
  {
    const auto model = Load(one_thread);
    if (model == nullptr) return;  // a failure
    EngineOptions options = Options(*model, 64);
    options.prefix_cache = false;
    for (const Admission& request : Requests(*model)) {
      alone.push_back(testing::RunRequests(*model, one_thread, options, {request}, stats).at(0));
    }
  }
  const auto model = Load(pool);
  ASSERT_NE(model, nullptr);
  const std::vector<Admission> requests = Requests(*model);
  EngineOptions options = Options(*model, 1024);
  options.prefill_chunk = 16;
  EXPECT_EQ(testing::RunRequests(*model, pool, options, requests, stats), alone);
  EXPECT_GT(stats.cached_prompt_tokens, 0);
  EXPECT_EQ(testing::RunRequests(*model, pool, options, requests, stats, alone), alone) << "with drafts";
  EXPECT_GT(stats.accepted, 0);
  EXPECT_LT(stats.accepted, stats.checked);
  options.prefill_chunk = 512;
  EXPECT_EQ(testing::RunRequests(*model, pool, options, requests, stats), alone) << "in large chunks";
  const EngineOptions tight = Options(*model, 24);
  EXPECT_EQ(testing::RunRequests(*model, pool, tight, requests, stats), alone) << "preempted";
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_EQ(testing::RunRequests(*model, pool, tight, requests, stats, alone), alone)
      << "preempted, with drafts";
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTargetEngine, ::testing::ValuesIn(models::AllCases()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace tandem::verifier
