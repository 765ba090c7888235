#include "common/sampling/philox.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "common/sampling/exact_math.h"
#include "common/sampling/philox_batch.h"

namespace tandem::sampling {
namespace {

// Distance of `value` from `exact` in units of the last place of `exact` rounded to T.
template <typename T>
long double UlpError(T value, long double exact) {
  const T rounded = std::abs(static_cast<T>(exact));
  const long double ulp = std::nextafter(rounded, std::numeric_limits<T>::infinity()) - rounded;
  return std::abs(static_cast<long double>(value) - exact) / ulp;
}

TEST(ExactMath, LogIsWithinOneUlp) {
  std::mt19937_64 rng(1);
  std::uniform_real_distribution<double> exponent(-700, 700), near_one(0.5, 1.5);
  for (int i = 0; i < 300000; ++i) {
    for (const double x : {std::exp(exponent(rng)), near_one(rng), 1 + (near_one(rng) - 1) * 0x1p-20}) {
      ASSERT_LT(UlpError(ExactLog(x), std::log(static_cast<long double>(x))), 1.0L) << x;
    }
  }
  EXPECT_EQ(ExactLog(1.0), 0.0);
}

TEST(ExactMath, ExpIsWithinOneUlp) {
  std::mt19937_64 rng(2);
  std::uniform_real_distribution<double> wide(-707, 0), narrow(-1, 0);
  for (int i = 0; i < 300000; ++i) {
    for (const double x : {wide(rng), narrow(rng)}) {
      ASSERT_LT(UlpError(ExactExp(x), std::exp(static_cast<long double>(x))), 1.0L) << x;
    }
  }
  EXPECT_EQ(ExactExp(0.0), 1.0);
  EXPECT_EQ(ExactExp(-709.0), 0.0);
  EXPECT_EQ(ExactExp(-std::numeric_limits<double>::infinity()), 0.0);
}

TEST(ExactMath, FloatExpIsWithinItsBoundAndMonotoneEnough) {
  std::mt19937_64 rng(3);
  std::uniform_real_distribution<float> wide(-87, 0), narrow(-1, 0);
  for (int i = 0; i < 300000; ++i) {
    for (const float x : {wide(rng), narrow(rng)}) {
      const long double exact = std::exp(static_cast<long double>(x));
      ASSERT_LT(std::abs(ExactExpF(x) - exact), exact * 0x1p-22L) << x;
      ASSERT_LE(ExactExpF(x), 1.0f) << x;
    }
  }
  EXPECT_EQ(ExactExpF(0.0f), 1.0f);
  EXPECT_EQ(ExactExpF(-87.5f), 0.0f);
  EXPECT_EQ(ExactExpF(-std::numeric_limits<float>::infinity()), 0.0f);
}

// Changed bits would change every sampled text, so some are written down, from this code on x86-64.
TEST(ExactMath, BitsAreTheRecordedOnes) {
  uint64_t log_hash = 0, exp_hash = 0, float_hash = 0;
  for (int i = 1; i <= 100000; ++i) {
    log_hash = log_hash * 31 + std::bit_cast<uint64_t>(ExactLog(i / 1024.0));
    exp_hash = exp_hash * 31 + std::bit_cast<uint64_t>(ExactExp(-i / 1024.0));
    float_hash = float_hash * 31 + std::bit_cast<uint32_t>(ExactExpF(static_cast<float>(-i) / 1024.0f));
  }
  EXPECT_EQ(log_hash, 13152255553253973634u);
  EXPECT_EQ(exp_hash, 1488369428146104873u);
  EXPECT_EQ(float_hash, 854798432229225513u);
}

TEST(Gumbel, IsCorrectlyRoundedAndMonotoneForEveryUniform) {
  float previous = -3;
  for (uint32_t i = 0; i < (1u << 23); ++i) {
    const float u = UniformOfWord(i << 9);
    const float g = GumbelOfUniform(u);
    ASSERT_GE(g, previous) << i;
    previous = g;
    if (i % 8 != 0) continue;  // long double logarithms are slow
    const long double exact = -std::log(-std::log(static_cast<long double>(u)));
    // Half a unit, and the error of computing in double.
    ASSERT_LE(std::abs(g - exact),
              0.5L * std::abs(std::nextafter(g, 100.0f) - g) + 1e-15L * (1 + std::abs(exact)))
        << i;
  }
}

TEST(Gumbel, LiesWithinTheStatedRange) {
  const float least = GumbelOfUniform(UniformOfWord(0)), most = GumbelOfUniform(UniformOfWord(0xffffffffu));
  EXPECT_GE(least, kGumbelMin);
  EXPECT_LE(most, kGumbelMax);
  EXPECT_LT(most - least, kGumbelRange);
}

TEST(PhiloxBatch, EqualsOneBlockAtATime) {
  std::mt19937_64 rng(4);
  for (int i = 0; i < 200; ++i) {
    const uint64_t seed = rng(), index = rng() >> (rng() % 64);
    const auto tag = static_cast<uint32_t>(rng());
    const auto first = static_cast<uint32_t>(rng() % (1u << 26)) * 4;
    std::array<uint32_t, kPhiloxBatch> words;
    const uint32_t max = PhiloxWords(seed, index, tag, first, words);
    EXPECT_EQ(max, *std::max_element(words.begin(), words.end()));
    for (uint32_t j = 0; j < words.size(); ++j) {
      const PhiloxBlock block = Philox4x32_10(
          {(first + j) / 4, static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), tag},
          {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
      ASSERT_EQ(words[j], block[(first + j) % 4]) << "token " << first + j;
    }
  }
}

}  // namespace
}  // namespace tandem::sampling
