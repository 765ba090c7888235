#include "common/kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "common/kernels/cpu/reference.h"
#include "common/kernels/dispatch.h"
#include "common/kernels/gemm.h"
#include "common/kernels/half.h"
#include "common/kernels/math.h"
#include "common/kernels/test_matrices.h"

namespace tandem::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kDims[] = {8, 16, 24, 64, 100, 576, 577, 1536};

testing::AssertionResult SameBits(const std::vector<float>& actual, const std::vector<float>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(float)) != 0) {
      return testing::AssertionFailure()
             << "element " << i << ": " << actual[i] << " instead of " << expected[i];
    }
  }
  return testing::AssertionSuccess();
}

class ElementwiseTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SelectTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SelectTarget(AvailableTargets().front()).ok()); }
  ThreadPool pool_{2};
};

TEST_P(ElementwiseTest, RunsOnTheTargetSelected) { EXPECT_EQ(ActiveTarget(), GetParam()); }

TEST_P(ElementwiseTest, RmsNormEqualsTheReference) {
  for (const int dim : kDims) {
    for (const int tokens : {1, 3, 50}) {
      std::vector<float> x = RandomFloats(tokens * dim, 1);
      const std::vector<float> w = RandomFloats(dim, 2);
      std::vector<float> expected(x.size()), actual(x.size());
      for (int t = 0; t < tokens; ++t) {
        RmsNormReference({&x[t * dim], size_t(dim)}, w, 1e-5f, {&expected[t * dim], size_t(dim)});
      }
      RmsNorm(x.data(), w, 1e-5f, tokens, actual.data(), pool_);
      EXPECT_TRUE(SameBits(actual, expected)) << dim;
      RmsNorm(x.data(), w, 1e-5f, tokens, x.data(), pool_);
      EXPECT_TRUE(SameBits(x, expected)) << "in place, " << dim;
    }
  }
}

TEST_P(ElementwiseTest, HeadsAreNormalisedOneByOneWithinTheStride) {
  const std::vector<float> w = RandomFloats(24, 3);
  std::vector<float> x = RandomFloats(2 * 80, 4), expected = x;
  for (int t = 0; t < 2; ++t) {
    for (int h = 0; h < 3; ++h) {
      const std::span<float> head(&expected[t * 80 + h * 24], 24);
      RmsNormReference(head, w, 1e-6f, head);
    }
  }
  RmsNormHeads(x.data(), 80, 2, 3, w, 1e-6f, pool_);
  EXPECT_TRUE(SameBits(x, expected));
}

TEST_P(ElementwiseTest, SwiGluAndAddEqualTheReference) {
  for (const int dim : kDims) {
    std::vector<float> gate = RandomFloats(30 * dim, 5), up = RandomFloats(30 * dim, 6), out(30 * dim);
    gate[0] = -200.0f;
    gate[1] = 200.0f;
    gate[2] = -88.0f;
    gate[3] = -0.0f;
    std::vector<float> expected(out.size()), sum = gate, expected_sum(out.size());
    for (size_t i = 0; i < out.size(); ++i) {
      expected[i] = SiluReference(gate[i]) * up[i];
      expected_sum[i] = gate[i] + up[i];
    }
    SwiGlu(gate.data(), up.data(), 30, dim, out.data(), pool_);
    EXPECT_TRUE(SameBits(out, expected)) << dim;
    AddInPlace(sum.data(), up.data(), static_cast<int64_t>(sum.size()), pool_);
    EXPECT_TRUE(SameBits(sum, expected_sum)) << dim;
  }
}

TEST_P(ElementwiseTest, GeGluSoftCapScaleAndBiasesEqualTheReference) {
  for (const int dim : kDims) {
    std::vector<float> gate = RandomFloats(30 * dim, 5), up = RandomFloats(30 * dim, 6), out(30 * dim);
    const std::vector<float> bias = RandomFloats(dim, 7);
    const float edges[] = {-200.0f, 200.0f, -6.0f, -0.0f, 1e20f, -1e20f, NAN, 1e-30f};
    std::copy(std::begin(edges), std::end(edges), gate.begin());
    std::vector<float> gelu(out.size()), capped = gate, scaled = gate, biased = gate;
    std::vector<float> expected_capped(out.size()), expected_scaled(out.size()), expected_biased(out.size());
    for (size_t i = 0; i < out.size(); ++i) {
      gelu[i] = GeluReference(gate[i]) * up[i];
      expected_capped[i] = SoftCapReference(gate[i], 1.5f);
      expected_scaled[i] = gate[i] * 25.3f;
      expected_biased[i] = gate[i] + bias[i % dim];
    }
    const auto n = static_cast<int64_t>(out.size());
    GeGlu(gate.data(), up.data(), 30, dim, out.data(), pool_);
    EXPECT_TRUE(SameBits(out, gelu)) << dim;
    SoftCapInPlace(capped.data(), 1.5f, n, pool_);
    EXPECT_TRUE(SameBits(capped, expected_capped)) << dim;
    ScaleInPlace(scaled.data(), 25.3f, n, pool_);
    EXPECT_TRUE(SameBits(scaled, expected_scaled)) << dim;
    AddToRows(biased.data(), bias, 30, pool_);
    EXPECT_TRUE(SameBits(biased, expected_biased)) << dim;
  }
}

TEST_P(ElementwiseTest, RopeRotatesByThePositionsRow) {
  for (const int head_dim : {8, 24, 64, 128}) {
    const int half = head_dim / 2, heads = 3, stride = heads * head_dim + 4;
    const std::vector<float> cos = RandomFloats(10 * half, 7), sin = RandomFloats(10 * half, 8);
    const std::vector<int32_t> positions = {9, 0, 4};
    std::vector<float> x = RandomFloats(3 * stride, 9), expected = x;
    for (int t = 0; t < 3; ++t) {
      for (int h = 0; h < heads; ++h) {
        RopeReference({&expected[t * stride + h * head_dim], size_t(head_dim)},
                      {&cos[positions[t] * half], size_t(half)}, {&sin[positions[t] * half], size_t(half)});
      }
    }
    Rope(x.data(), stride, positions, heads, head_dim, cos.data(), sin.data(), pool_);
    EXPECT_TRUE(SameBits(x, expected)) << head_dim;
  }
}

TEST_P(ElementwiseTest, ActivationsAreRoundedAsTheReferenceDoes) {
  std::vector<float> input = RandomFloats(40 * 96, 10);
  for (int i = 0; i < 32; ++i) input[i] = 0.0f;
  for (int i = 32; i < 64; ++i) input[i] *= 1e-42f;
  for (int i = 64; i < 96; ++i)
    input[i] = static_cast<float>(i - 80) + 0.5f;  // halves: to even after scaling
  input[64] = 127.0f;
  input[100] = NAN;
  input[140] = -kInfinity;
  Activations x(40, 96, ActivationType::kInt8);
  x.Load(input, 40, 96, pool_);
  for (int b = 0; b < 40 * 3; ++b) {
    int8_t q[32];
    const float scale = QuantiseReference({&input[b * 32], 32}, q);
    int sum = 0;
    for (int i = 0; i < 32; ++i) {
      ASSERT_EQ(x.q()[b * 32 + i], q[i]) << "block " << b << " column " << i;
      sum += q[i];
    }
    ASSERT_EQ(x.negated_sums()[b], -sum);
    if (std::isnan(scale)) {
      ASSERT_TRUE(std::isnan(x.scales()[b]) && std::isnan(x.sums()[b])) << b;
    } else {
      ASSERT_EQ(x.scales()[b], scale) << b;
      ASSERT_EQ(x.sums()[b], scale * static_cast<float>(sum)) << b;
    }
  }
  Activations rounded(40, 96, ActivationType::kBF16);
  rounded.Load(input, 40, 96, pool_);
  for (size_t i = 0; i < input.size(); ++i) {
    const float expected = FloatFromBF16(BF16FromFloat(input[i]));
    ASSERT_EQ(std::memcmp(&rounded.f32()[i], &expected, 4), 0) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, ElementwiseTest, testing::ValuesIn(AvailableTargets()),
                         [](const auto& info) { return info.param; });

TEST(Exp, IsWithinTwoUnitsInTheLastPlace) {
  for (double x = -87.32; x < 88.71; x += 0.00037) {
    const float argument = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(argument));
    const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
    ASSERT_LE(std::fabs(Exp(argument) - exact), 2 * unit) << argument;
  }
}

TEST(Exp, AtItsEdges) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(-kInfinity), 0.0f);
  EXPECT_EQ(Exp(-1e30f), 0.0f);
  EXPECT_EQ(Exp(-87.34f), 0.0f);
  EXPECT_GT(Exp(-87.33f), 0.0f);
  EXPECT_LT(Exp(88.71f), kInfinity);
  EXPECT_EQ(Exp(88.72f), kInfinity);
  EXPECT_EQ(Exp(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(Exp(NAN)));
}

// e^t errs by 2 units of 2^-23 and by |t| times the 2^-22 that t itself errs by: where |t| is large the
// result is tiny or has no e^t in it.
TEST(Gelu, IsTheApproximationByTanh) {
  for (double x = -9; x < 9; x += 0.00037) {
    const float argument = static_cast<float>(x);
    const double a = argument;
    const double exact = a * (1 + std::tanh(std::sqrt(2 / M_PI) * (a + 0.044715 * a * a * a))) / 2;
    ASSERT_NEAR(GeluReference(argument), exact, 4e-7 * std::fabs(a)) << argument;
  }
  EXPECT_EQ(GeluReference(0.0f), 0.0f);
  EXPECT_EQ(GeluReference(-50.0f), 0.0f);
  EXPECT_EQ(GeluReference(50.0f), 50.0f);
}

TEST(SoftCap, ErrsByLittleOfTheCap) {
  for (const float cap : {1.0f, 8.0f, 30.0f}) {
    for (double x = -200; x < 200; x += 0.0137) {
      const float argument = static_cast<float>(x);
      const double exact = cap * std::tanh(static_cast<double>(argument) / cap);
      ASSERT_NEAR(SoftCapReference(argument, cap), exact, 0x1p-22 * cap) << argument;
    }
    EXPECT_EQ(SoftCapReference(0.0f, cap), 0.0f);
    EXPECT_EQ(SoftCapReference(kInfinity, cap), cap);
    EXPECT_EQ(SoftCapReference(-kInfinity, cap), -cap);
    EXPECT_TRUE(std::isnan(SoftCapReference(NAN, cap)));
  }
}

TEST(SelectTarget, NamesWhatThereIsWhenAskedForSomethingElse) {
  const absl::Status status = SelectTarget("AVX9");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("SCALAR"), std::string::npos) << status;
}

TEST(Half, EveryF16SurvivesTheWayToFloatAndBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = FloatFromF16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(F16FromFloat(value), bits);
  }
}

TEST(Half, RoundsToNearestEven) {
  EXPECT_EQ(F16FromFloat(1.0f + 0x1p-11f), 0x3c00);  // tie, to even
  EXPECT_EQ(F16FromFloat(1.0f + 0x3p-11f), 0x3c02);  // tie, to even
  EXPECT_EQ(F16FromFloat(1.0f + 0x1p-11f + 0x1p-20f), 0x3c01);
  EXPECT_EQ(F16FromFloat(65519.0f), 0x7bff);
  EXPECT_EQ(F16FromFloat(65520.0f), 0x7c00);
  EXPECT_EQ(F16FromFloat(0x1p-25f), 0x0000);
  EXPECT_EQ(F16FromFloat(0x1.8p-25f), 0x0001);
  EXPECT_EQ(F16FromFloat(-0x1.ffcp-15f), 0x8400);  // tie, into the normal numbers
  EXPECT_EQ(F16FromFloat(-0x1.ff8p-15f), 0x83ff);
}

}  // namespace
}  // namespace tandem::kernels
