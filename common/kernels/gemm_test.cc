#include "common/kernels/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "common/kernels/dispatch.h"
#include "common/kernels/test_matrices.h"

namespace tandem::kernels {
namespace {

struct Shape {
  int64_t rows, cols;
};

// Rows and columns across lanes, blocks and register tiles; quantised weights need multiples of 32 columns.
constexpr Shape kShapes[] = {{1, 32},   {16, 64}, {17, 96}, {72, 160}, {131, 288},
                             {150, 32}, {5, 7},   {33, 45}, {160, 131}};
constexpr int kTokens[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                           13, 14, 15, 16, 17, 18, 19, 20, 31, 64, 100};
constexpr ActivationType kActivations[] = {ActivationType::kF32, ActivationType::kBF16,
                                           ActivationType::kInt8};

// Where two results differ in their bits, and how.
testing::AssertionResult SameBits(const std::vector<float>& actual, const std::vector<float>& expected,
                                  int64_t rows) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(float)) != 0) {
      return testing::AssertionFailure() << "token " << i / rows << " row " << i % rows << ": " << actual[i]
                                         << " instead of " << expected[i];
    }
  }
  return testing::AssertionSuccess();
}

class GemmTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SelectTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SelectTarget(AvailableTargets().front()).ok()); }
};

TEST_P(GemmTest, EqualsTheReferenceBitByBit) {
  ThreadPool pool(1);
  for (const Shape shape : kShapes) {
    for (const WeightSource& source : kWeightSources) {
      if (shape.cols % source.column_multiple() != 0) continue;
      const Matrix w = MakeMatrix(source, shape.rows, shape.cols, 1);
      for (const ActivationType type : kActivations) {
        const std::vector<float> input = RandomFloats(100 * shape.cols, 2);
        Activations x(100, shape.cols, type);
        x.Load(input, 100, shape.cols, pool);
        std::vector<float> expected(100 * shape.rows);
        GemmReference(x, w, expected.data(), 0);
        for (const int tokens : kTokens) {
          x.Load(input, tokens, shape.cols, pool);
          std::vector<float> actual(tokens * shape.rows, NAN);
          Gemm(x, w, actual.data(), 0, pool);
          const std::vector<float> head(expected.begin(), expected.begin() + tokens * shape.rows);
          // The reference's first tokens: the number of tokens must not matter.
          ASSERT_TRUE(SameBits(actual, head, shape.rows))
              << source.name << " x " << ActivationTypeName(type) << " [" << shape.rows << ", " << shape.cols
              << "], " << tokens << " tokens";
        }
      }
    }
  }
}

TEST_P(GemmTest, ThreadsAndBatchingDoNotChangeBits) {
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    const WeightSource& q4 = kWeightSources[0];
    const Matrix a = MakeMatrix(q4, 560, 320, 3);
    const Matrix b = MakeMatrix(kWeightSources[2], 192, 320, 4);
    const Matrix c = MakeMatrix(kWeightSources[5], 1000, 320, 5);
    for (const int tokens : {1, 8, 61}) {
      const std::vector<float> input = RandomFloats(tokens * 320, 6);
      Activations x(tokens, 320, ActivationType::kInt8);
      x.Load(input, tokens, 320, pool);
      // Into one wider array, with gaps that must stay as they are.
      const int64_t stride = 560 + 192 + 3;
      std::vector<float> ab(tokens * stride, 7.0f), expected_ab(tokens * stride, 7.0f);
      std::vector<float> actual_c(tokens * 1000), expected_c(tokens * 1000);
      const GemmOutput outputs[] = {
          {&a, ab.data(), stride}, {&b, ab.data() + 560, stride}, {&c, actual_c.data(), 0}};
      GemmMany(x, outputs, pool);
      GemmReference(x, a, expected_ab.data(), stride);
      GemmReference(x, b, expected_ab.data() + 560, stride);
      GemmReference(x, c, expected_c.data(), 0);
      EXPECT_TRUE(SameBits(ab, expected_ab, stride)) << threads << " threads, " << tokens << " tokens";
      EXPECT_TRUE(SameBits(actual_c, expected_c, 1000)) << threads << " threads, " << tokens << " tokens";
    }
  }
}

TEST_P(GemmTest, IntegerSumsAreExactAtTheirExtremes) {
  // All weights and activations of the largest magnitude, in both signs: byte products must not saturate.
  ThreadPool pool(1);
  for (const int8_t weight : {-128, -127, 127}) {
    const Matrix w = MakeConstantQ8(17, 64, 1.0f, weight);
    for (const float value : {-3.0f, 3.0f}) {
      const std::vector<float> input(64, value);
      Activations x(1, 64, ActivationType::kInt8);
      x.Load(input, 1, 64, pool);
      std::vector<float> y(17), expected(17);
      Gemm(x, w, y.data(), 0, pool);
      GemmReference(x, w, expected.data(), 0);
      EXPECT_TRUE(SameBits(y, expected, 17)) << int{weight};
      EXPECT_NEAR(y[16], 64.0f * weight * value, std::fabs(64.0f * weight * value) * 1e-6f);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, GemmTest, testing::ValuesIn(AvailableTargets()),
                         [](const auto& info) { return info.param; });

TEST(Gemm, IsAccurateAgainstDoublePrecision) {
  // f32 chains: |error| <= cols * 2^-24 * sum |x w|, the first-order bound of a recursive sum with one
  // rounding a term. int8 activations: in addition each x is off by at most half its block's scale, and the
  // int8 path rounds the product of scales (2^-24), each block's term and the minimum's sum (2 roundings): 4
  // * 2^-24 a block.
  ThreadPool pool(1);
  constexpr int kRows = 48, kCols = 576, kTokenCount = 5;
  for (const WeightSource& source : kWeightSources) {
    const Matrix w = MakeMatrix(source, kRows, kCols, 8);
    const std::vector<float> input = RandomFloats(kTokenCount * kCols, 9);
    for (const ActivationType type : {ActivationType::kF32, ActivationType::kInt8}) {
      Activations x(kTokenCount, kCols, type);
      x.Load(input, kTokenCount, kCols, pool);
      std::vector<float> y(kTokenCount * kRows), weights(kCols);
      Gemm(x, w, y.data(), 0, pool);
      for (int r = 0; r < kRows; ++r) {
        w.DequantizeRow(r, weights);
        for (int t = 0; t < kTokenCount; ++t) {
          double sum = 0, magnitude = 0, rounding = 0;
          for (int c = 0; c < kCols; ++c) {
            const double product = double{input[t * kCols + c]} * weights[c];
            sum += product;
            magnitude += std::fabs(product);
            if (type == ActivationType::kInt8 && source.quantised()) {
              rounding += 0.5 * x.scales()[(t * kCols + c) / 32] * std::fabs(weights[c]) * 1.001;
            }
          }
          // Terms scale * q and minimum may cancel in w; 20 covers |scale q| + |minimum| against |w| here.
          const double bound = kCols * 0x1p-24 * magnitude * (source.quantised() ? 20 : 1) + rounding;
          ASSERT_NEAR(y[t * kRows + r], sum, bound) << source.name << " row " << r << " token " << t;
        }
      }
    }
  }
}

TEST(Activations, ABlockOfZerosOrOfTinyValuesHasScaleZero) {
  ThreadPool pool(1);
  std::vector<float> input(96, 0.0f);
  input[40] = 1e-40f;  // second block: its scale would be subnormal
  input[70] = -2.54f;
  Activations x(1, 96, ActivationType::kInt8);
  x.Load(input, 1, 96, pool);
  EXPECT_EQ(x.scales()[0], 0.0f);
  EXPECT_EQ(x.scales()[1], 0.0f);
  EXPECT_EQ(x.q()[40], 0);
  EXPECT_EQ(x.scales()[2], 2.54f / 127.0f);
  EXPECT_EQ(x.q()[70], -127);
  EXPECT_EQ(x.negated_sums()[2], 127);
}

TEST(Activations, NonFiniteValuesPoisonTheirBlockOnly) {
  ThreadPool pool(1);
  for (const float bad : {INFINITY, -INFINITY, NAN, -NAN}) {
    std::vector<float> input(64, 1.0f);
    input[3] = bad;
    Activations x(1, 64, ActivationType::kInt8);
    x.Load(input, 1, 64, pool);
    EXPECT_TRUE(std::isnan(x.scales()[0]));
    EXPECT_EQ(x.q()[4], 0);
    EXPECT_EQ(x.q()[40], 127);
  }
}

}  // namespace
}  // namespace tandem::kernels
