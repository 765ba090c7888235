#include "common/sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace tandem::sampling {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

absl::StatusOr<int32_t> Sample(const std::vector<float>& logits, const SamplingParams& params,
                               uint64_t index = 0, const TokenCounts* history = nullptr,
                               std::span<const int32_t> masked = {}) {
  Scratch scratch;
  return SampleCoupled(logits, {&params, history, masked, index}, scratch);
}

// Rows of the kinds that models give, and of kinds they should not.
enum class Kind { kNormal, kPeaked, kFlat, kTies, kMostlyMinusInfinity, kHuge };

std::vector<float> MakeRow(Kind kind, size_t vocab_size, std::mt19937_64& rng) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> row(vocab_size);
  for (float& z : row) {
    z = normal(rng);
    switch (kind) {
      case Kind::kNormal:
        break;
      case Kind::kPeaked:
        z -= 10;
        break;
      case Kind::kFlat:
        z *= 1e-3f;
        break;
      case Kind::kTies:
        z = std::round(z);
        break;
      case Kind::kMostlyMinusInfinity:
        z = rng() % 8 == 0 ? z : -kInfinity;
        break;
      case Kind::kHuge:
        z *= 1e37f;
        break;
    }
  }
  row[rng() % vocab_size] = kind == Kind::kPeaked ? 12.0f : row[0];
  if (kind == Kind::kMostlyMinusInfinity) row[rng() % vocab_size] = 1.0f;
  return row;
}

SamplingParams MakeParams(std::mt19937_64& rng, size_t vocab_size) {
  const auto pick = [&](std::initializer_list<float> values) {
    return *(values.begin() + rng() % values.size());
  };
  SamplingParams params;
  params.temperature = pick({0.0f, 0.05f, 0.5f, 0.7f, 1.0f, 1.0f, 1.3f, 2.0f});
  params.top_k = static_cast<int32_t>(pick({0, 0, 1, 2, 5, 40, 300, 1000}));
  params.top_p = pick({1, 1, 1, 0.99f, 0.9f, 0.5f, 0.05f, 1 - 0x1p-24f});
  params.min_p = pick({0, 0, 0, 0.001f, 0.05f, 0.3f, 1});
  params.repetition_penalty = pick({1, 1, 1.2f, 0.5f});
  params.frequency_penalty = pick({0, 0, 0.5f, -1});
  params.presence_penalty = pick({0, 0, 0.7f, -0.3f});
  params.seed = rng();
  if (rng() % 3 == 0)
    params.logit_bias = {{static_cast<int32_t>(rng() % vocab_size), pick({-100, -2, 3, 100})}};
  return params;
}

// Whether the oracle's choice is so narrow, or a filter's boundary so near, that f32 and f64 may differ: then
// a small change of the parameters or of the winner's probability changes the oracle's answer.
bool IsNearTie(const std::vector<float>& logits, const Position& position, int32_t expected, int32_t actual) {
  constexpr float kRelative = 2e-5f;
  const SamplingParams& params = *position.params;
  for (const float step : {-kRelative, kRelative}) {
    SamplingParams moved = params;
    if (params.top_p < 1) moved.top_p = std::min(params.top_p * (1 + step), std::nextafter(1.0f, 0.0f));
    moved.min_p *= 1 + step;
    Position near = position;
    near.params = &moved;
    auto probs = ProcessedDistribution(logits, near);
    if (!probs.ok()) continue;
    if ((*probs)[static_cast<size_t>(actual)] == 0) continue;
    (*probs)[static_cast<size_t>(actual)] *= 1 + kRelative;
    (*probs)[static_cast<size_t>(expected)] *= 1 - kRelative;
    if (ArgmaxWithNoise(*probs, params.seed, position.index, 0) == actual) return true;
  }
  return false;
}

class SampleCoupledSweep : public ::testing::TestWithParam<size_t> {};

TEST_P(SampleCoupledSweep, EqualsTheSlowOracle) {
  const size_t vocab_size = GetParam();
  std::mt19937_64 rng(vocab_size);
  const int num_rows = vocab_size > 1000 ? 200 : 3000;
  int num_near_ties = 0;
  Scratch scratch;
  for (int i = 0; i < num_rows; ++i) {
    const Kind kind = static_cast<Kind>(i % 6);
    const std::vector<float> logits = MakeRow(kind, vocab_size, rng);
    const SamplingParams params = MakeParams(rng, vocab_size);
    TokenCounts history;
    for (int j = 0; j < 10; ++j) {
      history.AddPrompt(static_cast<int32_t>(rng() % vocab_size));
      history.AddOutput(static_cast<int32_t>(rng() % vocab_size));
    }
    std::vector<int32_t> masked;
    if (vocab_size > 10 && rng() % 2 == 0) masked = {static_cast<int32_t>(rng() % vocab_size)};
    const Position position = {&params, &history, masked, rng() >> (rng() % 64)};

    const auto actual = SampleCoupled(logits, position, scratch);
    const auto probs = ProcessedDistribution(logits, position);
    ASSERT_EQ(actual.status(), probs.status());
    if (!actual.ok()) continue;
    const int32_t expected = ArgmaxWithNoise(*probs, params.seed, position.index, 0);
    if (*actual == expected) continue;
    ++num_near_ties;
    EXPECT_TRUE(IsNearTie(logits, position, expected, *actual))
        << "row " << i << " V " << vocab_size << " T " << params.temperature << " k " << params.top_k << " p "
        << params.top_p << " min_p " << params.min_p << ": " << *actual << " instead of " << expected;
  }
  EXPECT_LE(num_near_ties, 2 + num_rows / 200);
}

// Around the widths of blocks, and as large as a vocabulary.
INSTANTIATE_TEST_SUITE_P(Sizes, SampleCoupledSweep,
                         ::testing::Values(1, 2, 15, 16, 17, 31, 32, 33, 63, 257, 1000, 1024, 1025, 20011));

TEST(SampleCoupled, FollowsTheDistribution) {
  const std::vector<float> logits = {0, 1, 2, -1, 0.5f, -kInfinity};
  SamplingParams params;
  params.temperature = 0.8f;
  params.seed = 7;
  const auto probs = ProcessedDistribution(logits, {&params, nullptr, {}, 0});
  ASSERT_TRUE(probs.ok());
  constexpr int kDraws = 50000;
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kDraws; ++i)
    ++counts[static_cast<size_t>(*Sample(logits, params, static_cast<uint64_t>(i)))];
  for (size_t v = 0; v < logits.size(); ++v) {
    const double p = static_cast<double>((*probs)[v]);
    // Five standard deviations of a binomial count.
    EXPECT_NEAR(counts[v], p * kDraws, 5 * std::sqrt(p * (1 - p) * kDraws) + 1e-9) << v;
  }
}

TEST(SampleCoupled, DoesNotChangeTheLogits) {
  const std::vector<float> logits = {1, 2, 3};
  std::vector<float> copy = logits;
  SamplingParams params;
  params.logit_bias = {{0, 5.0f}};
  ASSERT_TRUE(Sample(copy, params).ok());
  EXPECT_EQ(copy, logits);
}

TEST(SampleCoupled, ForgetsThePreviousCallInItsScratch) {
  std::mt19937_64 rng(5);
  Scratch reused;
  for (int i = 0; i < 500; ++i) {
    const size_t vocab_size = 1 + rng() % 500;
    const std::vector<float> logits = MakeRow(Kind::kNormal, vocab_size, rng);
    const SamplingParams params = MakeParams(rng, vocab_size);
    const Position position = {&params, nullptr, {}, rng()};
    Scratch fresh;
    EXPECT_EQ(*SampleCoupled(logits, position, reused), *SampleCoupled(logits, position, fresh));
  }
}

TEST(SampleCoupled, RefusesNaNAnywhereInTheRowAndUnderAMask) {
  for (const size_t vocab_size : {size_t{1}, size_t{16}, size_t{17}, size_t{1030}}) {
    for (size_t v = 0; v < vocab_size; ++v) {
      std::vector<float> logits(vocab_size, 1.0f);
      logits[v] = std::nanf("");
      const std::vector<int32_t> masked = {static_cast<int32_t>(v)};
      for (const float temperature : {0.0f, 1.0f}) {
        SamplingParams params;
        params.temperature = temperature;
        EXPECT_EQ(Sample(logits, params).status().code(), absl::StatusCode::kInvalidArgument) << v;
        EXPECT_EQ(Sample(logits, params, 0, nullptr, masked).status().code(),
                  absl::StatusCode::kInvalidArgument)
            << v;
      }
    }
  }
}

TEST(SampleCoupled, RefusesPlusInfinityAndARowWithoutAnyPossibleToken) {
  const SamplingParams params;
  EXPECT_THAT(Sample({0, kInfinity, 0}, params).status().message(), HasSubstr("+inf at token id 1"));
  EXPECT_THAT(Sample({-kInfinity, -kInfinity}, params).status().message(), HasSubstr("no token is possible"));
  EXPECT_THAT(Sample({}, params).status().message(), HasSubstr("0 values"));
  const std::vector<int32_t> masked = {0, 1};
  EXPECT_THAT(Sample({0, 0}, params, 0, nullptr, masked).status().message(),
              HasSubstr("no token is possible"));
  // A finite logit that a penalty sends to infinity.
  SamplingParams overflow;
  overflow.repetition_penalty = 0.1f;
  TokenCounts history;
  history.AddPrompt(0);
  EXPECT_THAT(Sample({3e38f, 0}, overflow, 0, &history).status().message(), HasSubstr("+inf at token id 0"));
}

TEST(SampleCoupled, RefusesIdsOutsideTheVocabulary) {
  for (const int32_t id : {-1, 3, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    SamplingParams bias;
    bias.logit_bias = {{id, 1.0f}};
    EXPECT_THAT(Sample({0, 0, 0}, bias).status().message(), HasSubstr("logit_bias: token id"));
    SamplingParams penalty;
    penalty.presence_penalty = 1;
    TokenCounts history;
    history.AddOutput(id);
    EXPECT_THAT(Sample({0, 0, 0}, penalty, 0, &history).status().message(), HasSubstr("history: token id"));
    const std::vector<int32_t> masked = {id};
    EXPECT_THAT(Sample({0, 0, 0}, {}, 0, nullptr, masked).status().message(), HasSubstr("masked: token id"));
  }
}

TEST(SampleCoupled, BreaksTiesByTheLowestId) {
  SamplingParams greedy;
  greedy.temperature = 0;
  EXPECT_EQ(*Sample({-0.0f, 0.0f, 0.0f}, greedy), 0);
  EXPECT_EQ(*Sample({-1, 5, 5, 5}, greedy), 1);
  // Exactly k survive; the lowest ids of the tie.
  SamplingParams top_k;
  top_k.top_k = 2;
  const auto probs = ProcessedDistribution(std::vector<float>{1, 1, 1, 1}, {&top_k, nullptr, {}, 0});
  EXPECT_THAT(*probs, ::testing::ElementsAre(0.5f, 0.5f, 0.0f, 0.0f));
  for (uint64_t i = 0; i < 100; ++i) EXPECT_LT(*Sample({1, 1, 1, 1}, top_k, i), 2);
}

TEST(ChooseCoupled, AmongAllTokensIsSampleCoupledsChoice) {
  std::mt19937_64 rng(5);
  for (const Kind kind :
       {Kind::kNormal, Kind::kPeaked, Kind::kFlat, Kind::kTies, Kind::kMostlyMinusInfinity}) {
    for (uint64_t index = 0; index < 200; ++index) {
      const std::vector<float> row = MakeRow(kind, 1 + rng() % 90, rng);
      const SamplingParams params = {.temperature = index % 2 == 0 ? 1.0f : 0.3f, .seed = rng()};
      std::vector<std::pair<float, int32_t>> all;
      for (size_t v = 0; v < row.size(); ++v) all.emplace_back(row[v], static_cast<int32_t>(v));
      std::shuffle(all.begin(), all.end(), rng);
      const auto expected = Sample(row, params, index);
      ASSERT_TRUE(expected.ok()) << expected.status();
      ASSERT_EQ(ChooseCoupled(all, params.temperature, params.seed, index), *expected);
    }
  }
}

TEST(ChooseCoupled, ANaNNeverWins) {
  const std::vector<std::pair<float, int32_t>> candidates = {{std::nanf(""), 3}, {-4.0f, 9}};
  for (uint64_t seed = 0; seed < 50; ++seed) EXPECT_EQ(ChooseCoupled(candidates, 1.0f, seed, 0), 9);
}

TEST(ArgmaxWithNoise, AFewPairsAreADistributionOfZerosElsewhere) {
  std::mt19937_64 rng(6);
  for (uint64_t index = 0; index < 500; ++index) {
    std::vector<float> probs(60, 0.0f);
    std::vector<std::pair<float, int32_t>> pairs;
    for (const int32_t id : {41, 3, 17, 55}) {
      probs[id] = 0.25f;
      pairs.emplace_back(0.25f, id);
    }
    pairs.emplace_back(0.0f, 5);
    ASSERT_EQ(ArgmaxWithNoise(pairs, 8, index, 7), ArgmaxWithNoise(probs, 8, index, 7));
  }
}

TEST(TokenCounts, RemoveOutputUndoesAddOutput) {
  TokenCounts counts;
  counts.AddPrompt(1);
  counts.AddOutput(1);
  counts.AddOutput(2);
  counts.RemoveOutput(1);
  counts.RemoveOutput(2);
  ASSERT_EQ(counts.counts().size(), 1u);
  EXPECT_EQ(counts.counts().at(1).prompt, 1);
  EXPECT_EQ(counts.counts().at(1).output, 0);
}

TEST(ValidateSamplingParams, AcceptsTheEdgesOfEveryRange) {
  SamplingParams params;
  EXPECT_TRUE(ValidateSamplingParams(params, 10).ok());
  params = {.temperature = 2,
            .top_k = std::numeric_limits<int32_t>::max(),
            .top_p = 1e-9f,
            .min_p = 1,
            .repetition_penalty = 0.1f,
            .frequency_penalty = -2,
            .presence_penalty = 2,
            .logit_bias = {{0, -100}, {9, 100}},
            .seed = ~uint64_t{0}};
  EXPECT_TRUE(ValidateSamplingParams(params, 10).ok()) << ValidateSamplingParams(params, 10);
}

TEST(ValidateSamplingParams, NamesTheFieldOutOfRange) {
  const float nan = std::nanf("");
  const auto expect_refused = [](const SamplingParams& params, const std::string& field) {
    const absl::Status status = ValidateSamplingParams(params, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(status.message(), HasSubstr(field));
  };
  for (const float t : {-0.1f, 2.01f, nan, kInfinity}) expect_refused({.temperature = t}, "temperature");
  expect_refused({.top_k = -1}, "top_k");
  for (const float p : {0.0f, -1.0f, 1.5f, nan}) expect_refused({.top_p = p}, "top_p");
  for (const float p : {-0.1f, 1.1f, nan}) expect_refused({.min_p = p}, "min_p");
  for (const float r : {0.0f, 0.09f, 10.1f, nan})
    expect_refused({.repetition_penalty = r}, "repetition_penalty");
  for (const float f : {-2.1f, 2.1f, nan}) {
    expect_refused({.frequency_penalty = f}, "frequency_penalty");
    expect_refused({.presence_penalty = f}, "presence_penalty");
  }
  expect_refused({.logit_bias = {{-1, 0.0f}}}, "logit_bias");
  expect_refused({.logit_bias = {{10, 0.0f}}}, "logit_bias");
  expect_refused({.logit_bias = {{1, 0.0f}, {1, 1.0f}}}, "occurs twice");
  expect_refused({.logit_bias = {{1, 100.5f}}}, "logit_bias");
  expect_refused({.logit_bias = {{1, nan}}}, "logit_bias");
  SamplingParams many;
  many.logit_bias.resize(1025);
  expect_refused(many, "at most 1024");
}

TEST(ComputeLogprobs, EqualsALogSoftmaxInLongDouble) {
  std::mt19937_64 rng(6);
  for (const size_t vocab_size : {size_t{1}, size_t{7}, size_t{257}, size_t{5000}}) {
    const std::vector<float> logits = MakeRow(Kind::kNormal, vocab_size, rng);
    long double sum = 0;
    for (const float z : logits) sum += std::exp(static_cast<long double>(z));
    const auto chosen = static_cast<int32_t>(rng() % vocab_size);
    const TokenLogprobs result = ComputeLogprobs(logits, chosen, 20);
    const auto expected = [&](int32_t v) { return logits[static_cast<size_t>(v)] - std::log(sum); };
    EXPECT_NEAR(result.chosen, expected(chosen), 2e-6);
    ASSERT_EQ(result.top.size(), std::min<size_t>(20, vocab_size));
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (size_t i = 0; i < result.top.size(); ++i) {
      EXPECT_NEAR(result.top[i].second, expected(result.top[i].first), 2e-6);
      EXPECT_EQ(logits[static_cast<size_t>(result.top[i].first)], sorted[i]);
    }
  }
}

TEST(ComputeLogprobs, OrdersTiesByIdAndReturnsNothingUnasked) {
  const TokenLogprobs result = ComputeLogprobs(std::vector<float>{0, 2, 1, 2, 1}, 0, 4);
  std::vector<int32_t> ids;
  for (const auto& [id, logprob] : result.top) ids.push_back(id);
  EXPECT_THAT(ids, ::testing::ElementsAre(1, 3, 2, 4));
  EXPECT_TRUE(ComputeLogprobs(std::vector<float>{0, 2}, 0, 0).top.empty());
}

}  // namespace
}  // namespace tandem::sampling
