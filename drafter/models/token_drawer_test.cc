#include "drafter/models/token_drawer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "common/sampling/philox.h"

namespace tandem::drafter {
namespace {

using speculation::AcceptanceMode;
using speculation::TokenProbability;

constexpr DrawMode kCoupled = {AcceptanceMode::kCoupled, 0};

std::vector<float> RandomLogits(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

DraftRequest RequestWith(float temperature, uint64_t seed, int32_t start = 10) {
  DraftRequest request;
  request.start = start;
  request.sampling = {.seed = seed, .temperature = temperature};
  return request;
}

int32_t Draw(const DrawMode& mode, const DraftRequest& request, int32_t k, const DraftLogits& logits,
             std::vector<TokenProbability>* distribution = nullptr) {
  DrawScratch scratch;
  return NoiseDrawer(mode).Draw(request, k, logits, scratch, distribution);
}

TEST(NoiseDrawer, CoupledIsTheTargetsChoiceOfTheSameLogits) {
  const std::vector<float> logits = RandomLogits(300, 1);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const DraftRequest request = RequestWith(seed % 2 == 0 ? 1.0f : 0.6f, seed);
    const sampling::SamplingParams params = {.temperature = request.sampling.temperature, .seed = seed};
    sampling::Scratch scratch;
    // Draft k is the token at start + k.
    const auto expected = sampling::SampleCoupled(logits, {&params, nullptr, {}, 13}, scratch);
    ASSERT_TRUE(expected.ok());
    EXPECT_EQ(Draw(kCoupled, request, 3, {logits, {}}), *expected);
  }
}

TEST(NoiseDrawer, NoiseBelongsToTargetIdsUnderAReducedVocabulary) {
  // A whole vocabulary, as ids and without: the same choice. A part of it: the best of that part.
  const std::vector<float> logits = RandomLogits(200, 2);
  std::vector<int32_t> all(200), even;
  std::vector<float> even_logits;
  for (int32_t v = 0; v < 200; ++v) {
    all[v] = v;
    if (v % 2 != 0) continue;
    even.push_back(v);
    even_logits.push_back(logits[v]);
  }
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const DraftRequest request = RequestWith(1.0f, seed);
    EXPECT_EQ(Draw(kCoupled, request, 1, {logits, all}), Draw(kCoupled, request, 1, {logits, {}}));
    int32_t best = -1;
    float best_score = -std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < even.size(); ++i) {
      const float score = even_logits[i] + sampling::Gumbel(seed, 11, 0, even[i]);
      if (score > best_score) {
        best_score = score;
        best = even[i];
      }
    }
    EXPECT_EQ(Draw(kCoupled, request, 1, {even_logits, even}), best);
  }
}

struct Filters {
  int32_t top_k = 0;
  float top_p = 1, min_p = 0;
};
constexpr Filters kFilters[] = {{.top_k = 1}, {.top_k = 7},    {.top_p = 0.5f},
                                {.min_p = 1}, {.min_p = 0.1f}, {.top_k = 20, .top_p = 0.8f, .min_p = 0.02f}};

DraftRequest Filtered(const Filters& filters, uint64_t seed) {
  DraftRequest request = RequestWith(1.0f, seed);
  request.sampling.top_k = filters.top_k;
  request.sampling.top_p = filters.top_p;
  request.sampling.min_p = filters.min_p;
  return request;
}

TEST(NoiseDrawer, CoupledGoesThroughTheTargetsFilters) {
  const std::vector<float> logits = RandomLogits(300, 4);
  std::vector<int32_t> ids(300);
  for (int32_t v = 0; v < 300; ++v) ids[v] = v;
  for (const Filters& filters : kFilters) {
    int num_changed = 0;
    for (uint64_t seed = 0; seed < 200; ++seed) {
      const DraftRequest request = Filtered(filters, seed);
      const sampling::SamplingParams params = {.temperature = 1,
                                               .top_k = filters.top_k,
                                               .top_p = filters.top_p,
                                               .min_p = filters.min_p,
                                               .seed = seed};
      sampling::Scratch scratch;
      const auto expected = sampling::SampleCoupled(logits, {&params, nullptr, {}, 12}, scratch);
      ASSERT_TRUE(expected.ok());
      EXPECT_EQ(Draw(kCoupled, request, 2, {logits, {}}), *expected);
      EXPECT_EQ(Draw(kCoupled, request, 2, {logits, ids}), *expected);
      num_changed += *expected != Draw(kCoupled, RequestWith(1.0f, seed), 2, {logits, {}});
    }
    EXPECT_GT(num_changed, 0);
  }
}

TEST(NoiseDrawer, RejectionReportsTheLawBehindFiltersAndTopM) {
  const std::vector<float> logits = RandomLogits(300, 5);
  std::vector<int32_t> ids(300);
  for (int32_t v = 0; v < 300; ++v) ids[v] = 3 * v;
  for (const Filters& filters : kFilters) {
    const sampling::SamplingParams params = {
        .temperature = 1, .top_k = filters.top_k, .top_p = filters.top_p, .min_p = filters.min_p};
    const auto law = sampling::ProcessedDistribution(logits, {&params, nullptr, {}, 0});
    ASSERT_TRUE(law.ok());
    for (const int32_t top_m : {3, 300}) {
      // The largest top_m of the filtered law, renormalised.
      std::vector<std::pair<double, int32_t>> largest;
      for (int32_t v = 0; v < 300; ++v) {
        if ((*law)[v] > 0) largest.push_back({-double{(*law)[v]}, 3 * v});
      }
      std::sort(largest.begin(), largest.end());
      if (largest.size() > static_cast<size_t>(top_m)) largest.resize(top_m);
      double total = 0;
      for (const auto& [negative, id] : largest) total -= negative;
      std::vector<TokenProbability> reported;
      const int32_t token =
          Draw({AcceptanceMode::kRejection, top_m}, Filtered(filters, 9), 1, {logits, ids}, &reported);
      ASSERT_EQ(reported.size(), largest.size());
      EXPECT_TRUE(std::ranges::any_of(reported, [&](const auto& entry) { return entry.token == token; }));
      for (const auto& [negative, id] : largest) {
        const auto found = std::ranges::find(reported, id, &TokenProbability::token);
        ASSERT_NE(found, reported.end()) << id;
        EXPECT_NEAR(found->probability, -negative / total, 1e-6);
      }
    }
  }
}

TEST(NoiseDrawer, GreedyTakesTheLowestOfEquals) {
  const std::vector<float> logits = {1, 4, 4, 0};
  const std::vector<int32_t> ids = {5, 8, 9, 12};
  EXPECT_EQ(Draw(kCoupled, RequestWith(0, 1), 1, {logits, {}}), 1);
  EXPECT_EQ(Draw(kCoupled, RequestWith(0.9e-5f, 1), 1, {logits, ids}), 8);
  std::vector<TokenProbability> law = {{1, 0.5f}};
  EXPECT_EQ(Draw({AcceptanceMode::kRejection, 3}, RequestWith(0, 1), 1, {logits, ids}, &law), 8);
  ASSERT_EQ(law.size(), 1u);
  EXPECT_EQ(law[0].token, 8);
  EXPECT_EQ(law[0].probability, 1.0f);
}

TEST(NoiseDrawer, RejectionDrawsFromTheTruncatedLawItReports) {
  const std::vector<float> logits = RandomLogits(500, 3);
  const std::vector<int32_t> none;
  constexpr int kTopM = 20;
  constexpr float kTemperature = 0.7f;
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  double total = 0;
  for (int i = 0; i < kTopM; ++i) total += std::exp((double{sorted[i]} - sorted[0]) / kTemperature);
  std::vector<int> drawn(logits.size());
  std::vector<float> probabilities(logits.size(), 0.0f);
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    DraftRequest request = RequestWith(kTemperature, seed);
    request.epoch = 1025;  // = 1 mod 1024
    request.round = 3;
    std::vector<TokenProbability> law;
    const int32_t token = Draw({AcceptanceMode::kRejection, kTopM}, request, 2, {logits, none}, &law);
    ASSERT_EQ(law.size(), size_t{kTopM});
    std::fill(probabilities.begin(), probabilities.end(), 0.0f);
    for (const auto& [id, p] : law) {
      EXPECT_GE(logits[id], sorted[kTopM - 1]);
      EXPECT_NEAR(p, std::exp((double{logits[id]} - sorted[0]) / kTemperature) / total, 1e-6);
      probabilities[id] = p;
    }
    // Stream 3, r = 1 * 2^20 + 3.
    ASSERT_EQ(token, sampling::ArgmaxWithNoise(probabilities, seed, 12, 3 + 4 * ((1u << 20) + 3)));
    ++drawn[token];
  }
  // Of 3000 draws each count stays within 5 standard deviations.
  for (size_t v = 0; v < logits.size(); ++v) {
    const double mean = 3000 * double{probabilities[v]};
    EXPECT_NEAR(drawn[v], mean, 5 * std::sqrt(mean) + 1e-9) << v;
  }
}

TEST(NoiseDrawer, TheNoiseTagTellsRoundsAndEpochsApart) {
  EXPECT_EQ(DrafterNoiseTag(0, 0), 3u);
  EXPECT_EQ(DrafterNoiseTag(0, 1), 7u);
  EXPECT_EQ(DrafterNoiseTag(2, 0), 3u + 4u * (2u << 20));
  EXPECT_EQ(DrafterNoiseTag(1024, 5), DrafterNoiseTag(0, 5));
}

TEST(NoiseDrawer, LogitsThatAreNoNumbersGiveTheLowestId) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const std::vector<int32_t> ids = {4, 6, 7};
  for (const std::vector<float>& logits :
       {std::vector<float>{nan, nan, nan}, {1, nan, 2}, {-inf, -inf, -inf}, {0, inf, 1}}) {
    for (const float temperature : {0.0f, 1.0f, nan}) {
      const DraftRequest request = RequestWith(temperature, 5);
      EXPECT_EQ(Draw(kCoupled, request, 1, {logits, ids}), 4);
      EXPECT_EQ(Draw(kCoupled, request, 1, {logits, {}}), 0);
      std::vector<TokenProbability> law;
      EXPECT_EQ(Draw({AcceptanceMode::kRejection, 2}, request, 1, {logits, ids}, &law), 4);
      ASSERT_EQ(law.size(), 1u);
      EXPECT_EQ(law[0].probability, 1.0f);
    }
  }
}

}  // namespace
}  // namespace tandem::drafter
