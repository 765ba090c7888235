// Each kernel of this folder beside the CPU's reference, over shapes with remainders. Where the CPU's
// operations are done in the CPU's order, bits are equal; elsewhere the bound is derived.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "common/kernels/cpu/reference.h"
#include "common/kernels/cuda/attention.h"
#include "common/kernels/cuda/elementwise.h"
#include "common/kernels/cuda/gemm.h"
#include "common/kernels/cuda/test_device.h"
#include "common/kernels/gemm.h"
#include "common/kernels/test_matrices.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

template <typename T>
testing::AssertionResult SameBits(const std::vector<T>& actual, const std::vector<T>& expected) {
  if (actual.size() < expected.size()) return testing::AssertionFailure() << actual.size() << " elements";
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(T)) != 0) {
      return testing::AssertionFailure()
             << "element " << i << ": " << actual[i] << " instead of " << expected[i];
    }
  }
  return testing::AssertionSuccess();
}

using ElementwiseKernels = DeviceTest;

constexpr int kDims[] = {1, 8, 31, 32, 33, 64, 100, 255, 256, 257, 576, 1000};

// Sums of n squares, all positive: each of the two orders errs by at most (additions in a row) * 2^-24 of the
// sum; the reference's lanes have n / 16 + 4, a thread n / 256 + 5 + 8. A root halves that; division, root,
// the mean's division and two products add 5 roundings on either side.
float NormBound(int dim) { return (0.5f * (dim / 16.0f + dim / 256.0f + 17) + 10) * 0x1p-24f; }

testing::AssertionResult CloseTo(const std::vector<float>& actual, const std::vector<float>& expected,
                                 float bound) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::fabs(actual[i] - expected[i]) <= bound * std::fabs(expected[i]))) {
      return testing::AssertionFailure() << "element " << i << ": " << actual[i] << " instead of "
                                         << expected[i] << ", bound " << bound * std::fabs(expected[i]);
    }
  }
  return testing::AssertionSuccess();
}

TEST_F(ElementwiseKernels, RmsNormIsCloseToTheReferenceAndARowDoesNotDependOnOthers) {
  ForEachSchedule([&](const char* how) {
    for (const int dim : kDims) {
      constexpr int kTokens = 5;
      const std::vector<float> x = RandomFloats(kTokens * dim, 1), w = RandomFloats(dim, 2);
      std::vector<float> expected(x.size());
      for (int t = 0; t < kTokens; ++t) {
        RmsNormReference({&x[t * dim], size_t(dim)}, w, 1e-5f, {&expected[t * dim], size_t(dim)});
      }
      const DeviceBuffer from = ToDevice(x), weights = ToDevice(w), to = Allocate(from.bytes());
      RmsNorm(from.as<float>(), weights.as<float>(), dim, 1e-5f, kTokens, to.as<float>(), *device_);
      const std::vector<float> actual = ToHost<float>(to);
      EXPECT_TRUE(CloseTo(actual, expected, NormBound(dim))) << dim << ", " << how;
      RmsNorm(from.as<float>() + dim, weights.as<float>(), dim, 1e-5f, 1, to.as<float>() + dim, *device_);
      EXPECT_TRUE(SameBits(ToHost<float>(to), actual)) << dim << ", alone, " << how;
      RmsNorm(from.as<float>(), weights.as<float>(), dim, 1e-5f, kTokens, from.as<float>(), *device_);
      EXPECT_TRUE(SameBits(ToHost<float>(from), actual)) << dim << ", in place, " << how;
    }
  });
}

TEST_F(ElementwiseKernels, HeadsAreNormalisedOneByOneWithinTheStride) {
  ForEachSchedule([&](const char* how) {
    for (const int dim : {24, 64, 130}) {
      constexpr int kTokens = 3, kHeads = 3;
      const int stride = kHeads * dim + 7;
      const std::vector<float> w = RandomFloats(dim, 3), x = RandomFloats(kTokens * stride, 4);
      std::vector<float> expected = x;
      for (int t = 0; t < kTokens; ++t) {
        for (int h = 0; h < kHeads; ++h) {
          const std::span<float> head(&expected[t * stride + h * dim], dim);
          RmsNormReference(head, w, 1e-6f, head);
        }
      }
      const DeviceBuffer to = ToDevice(x), weights = ToDevice(w);
      RmsNormHeads(to.as<float>(), stride, kTokens, kHeads, weights.as<float>(), dim, 1e-6f, *device_);
      const std::vector<float> actual = ToHost<float>(to);
      EXPECT_TRUE(CloseTo(actual, expected, NormBound(dim))) << dim << ", " << how;
      for (int t = 0; t < kTokens; ++t) {
        for (int i = kHeads * dim; i < stride; ++i) EXPECT_EQ(actual[t * stride + i], x[t * stride + i]);
      }
    }
  });
}

TEST_F(ElementwiseKernels, ElementsAreTheReferencesBitByBit) {
  ForEachSchedule([&](const char* how) {
    for (const int n : {1, 255, 256, 257, 3 * 331}) {
      std::vector<float> x = RandomFloats(n, 5);
      for (float& v : x) v *= 20.0f;
      const std::vector<float> y = RandomFloats(n, 6);
      std::vector<float> sum(n), scaled(n), capped(n), silu(n), gelu(n);
      for (int i = 0; i < n; ++i) {
        sum[i] = x[i] + y[i];
        scaled[i] = x[i] * 62.0f;
        capped[i] = SoftCapReference(x[i], 30.0f);
        silu[i] = SiluReference(x[i]) * y[i];
        gelu[i] = GeluReference(x[i]) * y[i];
      }
      const DeviceBuffer other = ToDevice(y);
      const auto expect = [&](const char* what, const std::vector<float>& expected, const auto& run) {
        const DeviceBuffer at = ToDevice(x);
        run(at.as<float>());
        EXPECT_TRUE(SameBits(ToHost<float>(at), expected)) << what << " of " << n << ", " << how;
      };
      expect("add", sum, [&](float* at) { AddInPlace(at, other.as<float>(), n, *device_); });
      expect("scale", scaled, [&](float* at) { ScaleInPlace(at, 62.0f, n, *device_); });
      expect("soft-cap", capped, [&](float* at) { SoftCapInPlace(at, 30.0f, n, *device_); });
      expect("SwiGLU", silu, [&](float* at) { SwiGlu(at, other.as<float>(), n, at, *device_); });
      expect("GeGLU", gelu, [&](float* at) { GeGlu(at, other.as<float>(), n, at, *device_); });
    }
  });
}

TEST_F(ElementwiseKernels, RowsGetTheirBias) {
  ForEachSchedule([&](const char* how) {
    for (const int dim : {1, 3, 84, 300}) {
      constexpr int kTokens = 4;
      const std::vector<float> x = RandomFloats(kTokens * dim, 7), b = RandomFloats(dim, 8);
      std::vector<float> expected = x;
      for (int i = 0; i < kTokens * dim; ++i) expected[i] += b[i % dim];
      const DeviceBuffer to = ToDevice(x), bias = ToDevice(b);
      AddToRows(to.as<float>(), bias.as<float>(), dim, kTokens, *device_);
      EXPECT_TRUE(SameBits(ToHost<float>(to), expected)) << dim << ", " << how;
    }
  });
}

TEST_F(ElementwiseKernels, RopeIsTheReferencesBitByBit) {
  ForEachSchedule([&](const char* how) {
    for (const int dim : {2, 16, 64, 96}) {
      const int heads = 5, stride = heads * dim + 3;
      const std::vector<int32_t> positions = {3, 0, 11};
      const std::vector<float> cos = RandomFloats(12 * dim / 2, 9), sin = RandomFloats(12 * dim / 2, 10);
      const std::vector<float> x = RandomFloats(positions.size() * stride, 11);
      std::vector<float> expected = x;
      for (size_t t = 0; t < positions.size(); ++t) {
        const size_t at = positions[t] * dim / 2, half = dim / 2;
        for (int h = 0; h < heads; ++h) {
          RopeReference({&expected[t * stride + h * dim], size_t(dim)}, {&cos[at], half}, {&sin[at], half});
        }
      }
      const DeviceBuffer to = ToDevice(x), c = ToDevice(cos), s = ToDevice(sin), p = ToDevice(positions);
      Rope(to.as<float>(), stride, p.as<int32_t>(), 3, heads, dim, c.as<float>(), s.as<float>(), *device_);
      EXPECT_TRUE(SameBits(ToHost<float>(to), expected)) << dim << ", " << how;
    }
  });
}

constexpr WeightSource kF32Source = {"f32", formats::DType::kF32, WeightType::kF32};
constexpr WeightSource kBF16Source = {"bf16", formats::DType::kBF16, WeightType::kBF16};

TEST_F(ElementwiseKernels, RowsOfTablesAreGathered) {
  ForEachSchedule([&](const char* how) {
    for (const WeightSource& source : {kF32Source, kBF16Source}) {
      for (const int cols : {1, 33, 300}) {
        const Matrix table = MakeMatrix(source, 7, cols, 12);
        auto on_device = DeviceMatrix::Create(table, *device_);
        ASSERT_TRUE(on_device.ok());
        const std::vector<int32_t> ids = {6, 0, 6, 3};
        std::vector<float> expected(ids.size() * cols);
        for (size_t i = 0; i < ids.size(); ++i) {
          table.DequantizeRow(ids[i], {&expected[i * cols], size_t(cols)});
        }
        const DeviceBuffer rows = ToDevice(ids), to = Allocate(expected.size() * sizeof(float));
        EmbeddingLookup(*on_device, rows.as<int32_t>(), 4, to.as<float>(), *device_);
        EXPECT_TRUE(SameBits(ToHost<float>(to), expected)) << source.name << " " << cols << ", " << how;
        const DeviceBuffer again = Allocate(2 * cols * sizeof(float));
        const DeviceBuffer picked = ToDevice(std::vector<int32_t>{3, 1});
        GatherRows(to.as<float>(), picked.as<int32_t>(), 2, cols, again.as<float>(), *device_);
        std::vector<float> two(expected.begin() + 3 * cols, expected.end());
        two.insert(two.end(), expected.begin() + cols, expected.begin() + 2 * cols);
        EXPECT_TRUE(SameBits(ToHost<float>(again), two)) << cols << ", " << how;
      }
    }
  });
}

class GemmKernels : public DeviceTest {
 protected:
  // `x` rounded, `tokens` of its rows with `w`; the whole output.
  std::vector<float> Run(const std::vector<float>& x, int tokens, const Matrix& w, ActivationType type,
                         LibraryGemm* library) {
    const int cols = static_cast<int>(w.cols());
    auto on_device = DeviceMatrix::Create(w, *device_);
    auto activations = DeviceActivations::Create(tokens, cols, type, *device_);
    TANDEM_CHECK(on_device.ok() && activations.ok());
    const DeviceBuffer input = Allocate(int64_t{BucketTokens(tokens)} * cols * sizeof(float));
    device_->Upload(input.data(), x.data(), int64_t{tokens} * cols * sizeof(float));
    activations->Load(input.as<float>(), tokens, cols, *device_);
    const DeviceBuffer output = Allocate(BucketTokens(tokens) * w.rows() * sizeof(float));
    Gemm(*activations, *on_device, output.as<float>(), library, *device_);
    return ToHost<float>(output);
  }
};

struct Product {
  int rows, cols;
};
constexpr Product kProducts[] = {{1, 1}, {63, 31}, {64, 32}, {65, 33}, {130, 96}, {7, 200}};

TEST_F(GemmKernels, ThePlainKernelIsTheReferenceBitByBitForAnyTokens) {
  ThreadPool pool(1);
  ForEachSchedule([&](const char* how) {
    for (const WeightSource& source : {kF32Source, kBF16Source}) {
      for (const ActivationType type : {ActivationType::kF32, ActivationType::kBF16}) {
        for (const auto [rows, cols] : kProducts) {
          const Matrix w = MakeMatrix(source, rows, cols, 13);
          for (const int tokens : {1, 5, 16, 17, 40}) {
            const std::vector<float> x = RandomFloats(tokens * cols, 14);
            Activations on_cpu(tokens, cols, type);
            on_cpu.Load(x, tokens, cols, pool);
            std::vector<float> expected(tokens * rows);
            GemmReference(on_cpu, w, expected.data(), 0);
            EXPECT_TRUE(SameBits(Run(x, tokens, w, type, nullptr), expected))
                << source.name << " [" << rows << ", " << cols << "] x " << tokens << ", "
                << ActivationTypeName(type) << ", " << how;
          }
        }
      }
    }
  });
}

#ifndef TANDEM_CUDA_EMULATED
TEST(Library, HasAllThatIsUsedOfIt) {  // which needs no device
  const absl::Status status = LibraryGemm::Open();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_TRUE(LibraryGemm::Version().starts_with("cublaslt-")) << LibraryGemm::Version();
}

TEST_F(GemmKernels, TheLibraryIsCloseToTheReference) {
  // Two sums of `cols` exact or once rounded products in f32, in unknown orders: each within cols * 2^-24 of
  // the sum of magnitudes, and one rounding a product.
  ThreadPool pool(1);
  auto library = LibraryGemm::Create(*device_);
  ASSERT_TRUE(library.ok()) << library.status();
  for (const auto& [source, type] : {std::pair{kF32Source, ActivationType::kF32},
                                     {kF32Source, ActivationType::kBF16},
                                     {kBF16Source, ActivationType::kBF16}}) {
    for (const auto [rows, cols] :
         {Product{576, 576}, {192, 576}, {1536, 576}, {84, 160}, {300, 84}, {65, 33}}) {
      const Matrix w = MakeMatrix(source, rows, cols, 15);
      for (const int tokens : {1, 2, 3, 8, 9, 64, 65, 200}) {
        const std::vector<float> x = RandomFloats(tokens * cols, 16);
        Activations on_cpu(tokens, cols, type);
        on_cpu.Load(x, tokens, cols, pool);
        std::vector<float> expected(tokens * rows), magnitudes(tokens * rows), weights(cols);
        GemmReference(on_cpu, w, expected.data(), 0);
        for (int r = 0; r < rows; ++r) {
          w.DequantizeRow(r, weights);
          for (int t = 0; t < tokens; ++t) {
            for (int c = 0; c < cols; ++c)
              magnitudes[t * rows + r] += std::fabs(on_cpu.f32()[t * cols + c] * weights[c]);
          }
        }
        const std::vector<float> actual = Run(x, tokens, w, type, library->get());
        for (int i = 0; i < tokens * rows; ++i) {
          ASSERT_NEAR(actual[i], expected[i], (2 * cols + 1) * 0x1p-24f * magnitudes[i])
              << source.name << " [" << rows << ", " << cols << "] x " << tokens << ", element " << i;
        }
      }
    }
  }
}
#endif

TEST(Buckets, HoldTheirTokensAndWasteLessThanHalf) {
  for (int tokens = 1; tokens < 1000; ++tokens) {
    EXPECT_GE(BucketTokens(tokens), tokens);
    EXPECT_LT(BucketTokens(tokens), 2 * tokens);
    EXPECT_EQ(BucketTokens(BucketTokens(tokens)), BucketTokens(tokens));
  }
}

// One layer's KV of several sequences, with unwritten positions poisoned, in a cache of the host and in one
// of the device.
class AttentionKernels : public DeviceTest {
 protected:
  struct Length {
    int length;    // positions in the cache, this step's rows included
    int num_rows;  // of this step, the last ones
  };
  struct Heads {
    int heads, kv_heads, head_dim;
  };

  void Make(KvType type, Heads shape, const std::vector<Length>& lengths) {
    heads_ = shape;
    rows_.clear();
    tables_.clear();
    tokens_ = 0;
    int num_blocks = 0;
    for (const Length& l : lengths) num_blocks += (l.length + 15) / 16;
    // A layer of another shape before it: offsets must be honoured.
    auto made =
        KvCache::Create(KvLayout::Create(type, {{1, 24}, {shape.kv_heads, shape.head_dim}}), num_blocks);
    TANDEM_CHECK(made.ok());
    cache_ = *std::move(made);
    for (int b = 0; b < num_blocks; ++b) cache_->Poison(b);
    std::vector<int32_t> free(num_blocks);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(7));
    uint32_t seed = 0;
    const int64_t width = int64_t{shape.kv_heads} * shape.head_dim;
    for (const Length& l : lengths) {
      const int blocks = (l.length + 15) / 16;
      tables_.emplace_back(free.end() - blocks, free.end());
      free.resize(free.size() - blocks);
    }
    for (size_t i = 0; i < lengths.size(); ++i) {
      // What came before this step.
      const int before = lengths[i].length - lengths[i].num_rows;
      const SequenceRows all = {0, before, 0, tables_[i]};
      const auto keys = RandomFloats(before * width, ++seed), values = RandomFloats(before * width, ++seed);
      if (before > 0) kernels::WriteKv(keys.data(), values.data(), width, 1, {&all, 1}, *cache_, pool_);
      rows_.push_back({tokens_, lengths[i].num_rows, before, tables_[i]});
      tokens_ += lengths[i].num_rows;
    }
    q_ = RandomFloats(tokens_ * q_stride(), 99);
    keys_ = RandomFloats(tokens_ * kv_stride(), 98);
    values_ = RandomFloats(tokens_ * kv_stride(), 97);
  }

  int64_t q_stride() const { return int64_t{heads_.heads} * heads_.head_dim + 5; }
  int64_t kv_stride() const { return int64_t{heads_.kv_heads} * heads_.head_dim + 3; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(heads_.head_dim)); }
  int64_t cache_bytes() const { return cache_->num_blocks() * cache_->layout().block_bytes; }

  std::vector<float> Reference(int32_t window) {
    kernels::WriteKv(keys_.data(), values_.data(), kv_stride(), 1, rows_, *cache_, pool_);
    std::vector<float> out(tokens_ * q_stride(), 7.0f);
    AttentionReference(q_.data(), q_stride(), 1, rows_, *cache_, heads_.heads, scale(), out.data(),
                       q_stride(), window);
    return out;
  }

  // Writes the step's K and V, attends, and checks the cache's bytes against the host's after Reference.
  std::vector<float> Run(int32_t window, int64_t partial_floats, const DeviceBuffer& kv) {
    auto step = StepTables::Create(tokens_, heads_.heads / heads_.kv_heads, *device_);
    TANDEM_CHECK(step.ok());
    step->Load(rows_, *device_);
    const DeviceBuffer q = ToDevice(q_), keys = ToDevice(keys_), values = ToDevice(values_);
    const DeviceBuffer out = ToDevice(std::vector<float>(tokens_ * q_stride(), 7.0f));
    const DeviceBuffer partials = Allocate(partial_floats * sizeof(float));
    const DeviceKv on_device = {kv.data(), cache_->layout()};
    WriteKv(keys.as<float>(), values.as<float>(), kv_stride(), 1, *step, on_device, *device_);
    Attention(q.as<float>(), q_stride(), 1, *step, on_device, scale(), out.as<float>(), q_stride(), window,
              {partials.as<float>(), static_cast<size_t>(partial_floats)}, *device_);
    return ToHost<float>(out);
  }

  void ExpectReference(int32_t window, const char* how) {
    const std::vector<std::byte> before(cache_->block(0), cache_->block(0) + cache_bytes());
    const std::vector<float> expected = Reference(window);
    // Spans in one block of threads, and apart.
    for (const int64_t partial_floats : {int64_t{0}, int64_t{1} << 22}) {
      const DeviceBuffer kv = ToDevice(before);
      EXPECT_TRUE(SameBits(Run(window, partial_floats, kv), expected))
          << KvTypeName(cache_->layout().type) << ", " << heads_.heads << " heads, " << heads_.kv_heads
          << " of KV, dim " << heads_.head_dim << ", window " << window << ", "
          << (partial_floats > 0 ? "spans apart, " : "") << how;
      EXPECT_EQ(std::memcmp(ToHost<std::byte>(kv).data(), cache_->block(0), cache_bytes()), 0)
          << "the cache, " << how;
    }
    std::memcpy(cache_->block(0), before.data(), before.size());
  }

  ThreadPool pool_{1};
  Heads heads_ = {};
  int tokens_ = 0;
  std::unique_ptr<KvCache> cache_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<SequenceRows> rows_;
  std::vector<float> q_, keys_, values_;
};

TEST_F(AttentionKernels, CacheAndOutputAreTheReferencesBitByBit) {
  ForEachSchedule([&](const char* how) {
    for (const KvType type : {KvType::kF32, KvType::kBF16}) {
      // More pairs than a group has; more query heads on one KV head than that; no multiple of a warp; the
      // most.
      for (const Heads shape : {Heads{9, 3, 64}, {20, 1, 24}, {2, 1, 136}, {2, 2, 2}, {2, 1, 256}}) {
        // Decode, windows of drafts, prefill from the middle of a block and of a span, spans that end with a
        // row.
        Make(type, shape, {{1, 1}, {17, 1}, {40, 8}, {255, 3}, {257, 1}, {300, 12}, {530, 3}});
        ExpectReference(/*window=*/0, how);
      }
    }
  });
}

TEST_F(AttentionKernels, FewPairsTakeTheSmallKernel) {
  ForEachSchedule([&](const char* how) {
    for (const Heads shape : {Heads{4, 1, 32}, {3, 3, 16}}) {
      Make(KvType::kBF16, shape, {{1, 1}, {600, 1}, {90, 1}});
      ExpectReference(/*window=*/0, how);
    }
  });
}

TEST_F(AttentionKernels, WindowsAreTheReferencesBitByBit) {
  ForEachSchedule([&](const char* how) {
    Make(KvType::kF32, {4, 2, 32}, {{1, 1}, {40, 8}, {257, 1}, {300, 20}, {800, 3}});
    for (const int32_t window : {1, 16, 17, 256, 300, 512}) ExpectReference(window, how);
  });
}

TEST_F(AttentionKernels, RowsOfABlockOfDraftsSeeEachOther) {
  ForEachSchedule([&](const char* how) {
    Make(KvType::kBF16, {4, 2, 32}, {{8, 8}, {260, 7}, {90, 3}});
    for (SequenceRows& rows : rows_) rows.whole_block = true;
    for (const int32_t window : {0, 9}) ExpectReference(window, how);
  });
}

TEST_F(AttentionKernels, ARowDoesNotDependOnWhatSharesTheStep) {
  Make(KvType::kF32, {6, 2, 24}, {{300, 9}, {17, 1}, {600, 5}});
  kernels::WriteKv(keys_.data(), values_.data(), kv_stride(), 1, rows_, *cache_, pool_);
  const std::vector<std::byte> written(cache_->block(0), cache_->block(0) + cache_bytes());
  const DeviceBuffer kv = ToDevice(written);
  const std::vector<float> together = Run(0, 0, kv);
  const std::vector<SequenceRows> all = rows_;
  const std::vector<float> q = q_, keys = keys_, values = values_;
  for (const SequenceRows& rows : all) {
    for (int i = 0; i < rows.num_rows; ++i) {
      // One row alone: other groups, other kernels.
      rows_ = {{0, 1, rows.first_position + i, rows.blocks}};
      tokens_ = 1;
      const auto cut = [&](const std::vector<float>& of, int64_t stride) {
        const auto at = of.begin() + (rows.first_row + i) * stride;
        return std::vector<float>(at, at + stride);
      };
      q_ = cut(q, q_stride());
      keys_ = cut(keys, kv_stride());
      values_ = cut(values, kv_stride());
      EXPECT_TRUE(SameBits(Run(0, 1 << 20, kv), cut(together, q_stride()))) << "row " << rows.first_row + i;
    }
  }
}

}  // namespace
}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
