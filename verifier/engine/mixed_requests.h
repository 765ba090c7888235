// Requests of all kinds for engine tests, and what each gives when it is alone.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

#include "verifier/engine/fake_gateway.h"
#include "verifier/engine/fake_model.h"

namespace tandem::verifier::testing {

inline constexpr int64_t kBlockBytes = 16 * 8 * 2 * sizeof(float);  // of FakeModel

struct Bench {
  explicit Bench(const EngineOptions& options, int threads = 2, int max_step_tokens = 512,
                 int max_logits_rows = 256)
      : model(max_step_tokens, max_logits_rows), pool(threads) {
    auto created = Engine::Create(options, model, pool, clock);
    TANDEM_CHECK(created.ok());
    engine = *std::move(created);
  }
  FakeClock clock;
  FakeModel model;
  ThreadPool pool;
  std::unique_ptr<Engine> engine;
};

inline EngineOptions Options(int blocks = 4096) {
  EngineOptions options;
  options.kv_bytes = blocks * kBlockBytes;
  return options;
}

// Prompts that share beginnings, all kinds of parameters, stop ids that sometimes come up.
inline Admission MixedRequest(int number) {
  std::mt19937 random(number);
  Admission request;
  const int shared = static_cast<int>(random() % 60);
  for (int i = 0; i < shared; ++i) request.tokens.push_back((i * 7 + 3) % FakeModel::kVocab);
  const int own = 1 + static_cast<int>(random() % 40);
  for (int i = 0; i < own; ++i) request.tokens.push_back(static_cast<int32_t>(random() % FakeModel::kVocab));
  request.prompt_length = static_cast<int32_t>(request.tokens.size());
  request.max_tokens = 1 + static_cast<int>(random() % 60);
  request.sampling.seed = random();
  request.sampling.temperature = std::array{0.0f, 0.7f, 1.0f, 1.5f}[random() % 4];
  if (random() % 3 == 0) request.sampling.top_k = 10;
  if (random() % 3 == 0) request.sampling.top_p = 0.9f;
  if (random() % 3 == 0) {
    request.sampling.repetition_penalty = 1.3f;
    request.sampling.frequency_penalty = 0.5f;
    request.sampling.presence_penalty = 0.25f;
  }
  if (random() % 4 == 0) request.sampling.logit_bias = {{5, 2.0f}, {6, -3.0f}};
  if (random() % 2 == 0) request.stop_token_ids = {1, 2};
  if (random() % 3 == 0) request.min_tokens = std::min(request.max_tokens, 10);
  if (random() % 4 == 0) request.num_logprobs = 3;
  request.cache_owner = random() % 4 == 0 ? "other" : "";
  return request;
}

// What each of the first `n` requests gives when it is alone.
inline std::vector<Outcome> RunAlone(int n) {
  std::vector<Outcome> outcomes;
  for (int i = 0; i < n; ++i) {
    EngineOptions options = Options();
    options.prefix_cache = false;
    Bench setup(options, 1);
    FakeGateway gateway(*setup.engine, 1);
    const uint64_t id = gateway.Submit(MixedRequest(i));
    RunToEnd(*setup.engine, {&gateway});
    outcomes.push_back(gateway.outcome(id));
  }
  return outcomes;
}

inline void ExpectSame(const Outcome& got, const Outcome& want, int number) {
  EXPECT_EQ(got.output, want.output) << "request " << number;
  EXPECT_EQ(got.end, want.end) << "request " << number;
  EXPECT_EQ(got.logprobs, want.logprobs) << "request " << number;
}

}  // namespace tandem::verifier::testing
