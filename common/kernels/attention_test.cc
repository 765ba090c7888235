#include "common/kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "common/kernels/dispatch.h"
#include "common/kernels/half.h"
#include "common/kernels/test_matrices.h"

namespace tandem::kernels {
namespace {

// One layer's KV of several sequences whose blocks are interleaved in the cache, unwritten positions
// poisoned.
struct Scene {
  struct Sequence {
    int length;    // positions in the cache, this step's rows included
    int num_rows;  // of this step, the last ones
  };

  Scene(KvType type, int heads, int kv_heads, int head_dim, std::vector<Sequence> shapes, ThreadPool& pool)
      : num_heads(heads), head_dim(head_dim), kv_heads(kv_heads) {
    int num_blocks = 0;
    for (const Sequence& s : shapes) num_blocks += (s.length + 15) / 16;
    // A layer of another shape before it: offsets must be honoured.
    absl::StatusOr<std::unique_ptr<KvCache>> made =
        KvCache::Create(KvLayout::Create(type, {{1, 24}, {kv_heads, head_dim}}), num_blocks);
    TANDEM_CHECK(made.ok());
    cache = *std::move(made);
    for (int b = 0; b < num_blocks; ++b) cache->Poison(b);
    std::vector<int32_t> free(num_blocks);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), std::mt19937(7));
    uint32_t seed = 0;
    for (const Sequence& s : shapes) {
      const int blocks = (s.length + 15) / 16;
      tables.emplace_back(free.end() - blocks, free.end());
      free.resize(free.size() - blocks);
      keys.push_back(RandomFloats(size_t(s.length) * kv_heads * head_dim, ++seed));
      values.push_back(RandomFloats(size_t(s.length) * kv_heads * head_dim, ++seed));
    }
    for (size_t i = 0; i < shapes.size(); ++i) {
      SequenceRows all = {0, shapes[i].length, 0, tables[i]};
      WriteKv(keys[i].data(), values[i].data(), int64_t{kv_heads} * head_dim, 1, {&all, 1}, *cache, pool);
      rows.push_back({tokens, shapes[i].num_rows, shapes[i].length - shapes[i].num_rows, tables[i]});
      tokens += shapes[i].num_rows;
    }
    q = RandomFloats(size_t(tokens) * stride(), 99);
  }

  int64_t stride() const { return int64_t{num_heads} * head_dim + 5; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }

  std::vector<float> Run(ThreadPool& pool, int32_t window = 0) const {
    std::vector<float> out(tokens * stride(), 7.0f);
    Attention(q.data(), stride(), 1, rows, *cache, num_heads, scale(), out.data(), stride(), pool, window);
    return out;
  }
  std::vector<float> Reference(int32_t window = 0) const {
    std::vector<float> out(tokens * stride(), 7.0f);
    AttentionReference(q.data(), stride(), 1, rows, *cache, num_heads, scale(), out.data(), stride(), window);
    return out;
  }

  void SeeWholeBlocks() {
    for (SequenceRows& r : rows) r.whole_block = true;
  }

  int num_heads, head_dim, kv_heads;
  int tokens = 0;
  std::unique_ptr<KvCache> cache;
  std::vector<std::vector<int32_t>> tables;
  std::vector<std::vector<float>> keys, values;
  std::vector<SequenceRows> rows;
  std::vector<float> q;
};

testing::AssertionResult SameBits(const std::vector<float>& actual, const std::vector<float>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::memcmp(&actual[i], &expected[i], sizeof(float)) != 0) {
      return testing::AssertionFailure()
             << "element " << i << ": " << actual[i] << " instead of " << expected[i];
    }
  }
  return testing::AssertionSuccess();
}

struct Heads {
  int heads, kv_heads, head_dim;
};

class AttentionTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(SelectTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(SelectTarget(AvailableTargets().front()).ok()); }
};

// Decode, windows, prefill from the middle of a block and of a span, spans that end with a row.
const std::vector<Scene::Sequence> kSequences = {{1, 1},    {16, 16},  {17, 1},  {40, 8},
                                                 {255, 3},  {256, 1},  {257, 1}, {300, 70},
                                                 {530, 20}, {1025, 2}, {600, 5}};

TEST_P(AttentionTest, EqualsTheReferenceBitByBitForAnyThreads) {
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8}) {
      for (const Heads h : {Heads{9, 3, 64}, Heads{4, 4, 8}, Heads{4, 1, 24}, Heads{5, 1, 48},
                            Heads{2, 1, 136}, Heads{7, 1, 12}, Heads{2, 2, 2}}) {
        const Scene scene(type, h.heads, h.kv_heads, h.head_dim, kSequences, pool);
        // The poisoned rest of each last block would show as NaN.
        EXPECT_TRUE(SameBits(scene.Run(pool), scene.Reference()))
            << KvTypeName(type) << ", " << h.heads << " heads, " << h.kv_heads << " of KV, dim " << h.head_dim
            << ", " << threads << " threads";
      }
    }
  }
}

TEST_P(AttentionTest, ARowDoesNotDependOnTheOthersOfItsStep) {
  ThreadPool pool(2);
  for (const KvType type : {KvType::kBF16, KvType::kInt8}) {
    const Scene scene(type, 9, 3, 64, {{300, 70}, {700, 9}}, pool);
    const std::vector<float> together = scene.Run(pool);
    for (const SequenceRows& rows : scene.rows) {
      for (int i = 0; i < rows.num_rows; ++i) {
        const SequenceRows alone = {0, 1, rows.first_position + i, rows.blocks};
        const int64_t at = (rows.first_row + i) * scene.stride();
        std::vector<float> out(scene.stride(), 7.0f);
        Attention(scene.q.data() + at, scene.stride(), 1, {&alone, 1}, *scene.cache, 9, scene.scale(),
                  out.data(), scene.stride(), pool);
        EXPECT_TRUE(SameBits(out, {together.begin() + at, together.begin() + at + scene.stride()}))
            << KvTypeName(type) << ", row " << i;
      }
    }
  }
}

// Blocks that end within a KV block, at its end and in another span than they begin in.
const std::vector<Scene::Sequence> kBlocks = {{7, 7},    {16, 7},  {20, 7},   {263, 7},  {256, 7},
                                              {300, 64}, {40, 33}, {1025, 5}, {530, 20}, {1, 1}};

TEST_P(AttentionTest, WholeBlocksEqualTheReferenceBitByBit) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const KvType type : {KvType::kF32, KvType::kBF16, KvType::kInt8}) {
      for (const Heads h : {Heads{9, 3, 64}, Heads{4, 4, 8}, Heads{5, 1, 48}}) {
        Scene scene(type, h.heads, h.kv_heads, h.head_dim, kBlocks, pool);
        scene.SeeWholeBlocks();
        EXPECT_TRUE(SameBits(scene.Run(pool), scene.Reference()))
            << KvTypeName(type) << ", " << h.heads << " heads, dim " << h.head_dim << ", " << threads
            << " threads";
      }
    }
  }
}

TEST_P(AttentionTest, InAWholeBlockEachRowGetsWhatTheLastOneWould) {
  ThreadPool pool(2);
  Scene scene(KvType::kF32, 9, 3, 64, {{261, 7}, {40, 7}}, pool);
  const std::vector<float> causal = scene.Run(pool);
  scene.SeeWholeBlocks();
  const std::vector<float> whole = scene.Run(pool);
  for (const SequenceRows& rows : scene.rows) {
    for (int i = 0; i < rows.num_rows; ++i) {
      const int64_t at = (rows.first_row + i) * scene.stride();
      // The same query as a single row at the block's last position.
      const SequenceRows alone = {0, 1, rows.first_position + rows.num_rows - 1, rows.blocks};
      std::vector<float> out(scene.stride(), 7.0f);
      Attention(scene.q.data() + at, scene.stride(), 1, {&alone, 1}, *scene.cache, 9, scene.scale(),
                out.data(), scene.stride(), pool);
      EXPECT_TRUE(SameBits(out, {whole.begin() + at, whole.begin() + at + scene.stride()})) << "row " << i;
      const bool same_as_causal = std::equal(out.begin(), out.end(), causal.begin() + at);
      EXPECT_EQ(same_as_causal, i == rows.num_rows - 1) << "row " << i;
    }
  }
}

// Windows within a KV block, around its size and a span's, over several spans, and beyond every sequence.
constexpr int32_t kWindows[] = {1, 2, 9, 16, 17, 40, 255, 257, 512, 700, 5000};

TEST_P(AttentionTest, WindowsEqualTheReferenceBitByBitForAnyThreads) {
  for (const auto& [threads, type] :
       {std::pair(1, KvType::kF32), std::pair(3, KvType::kBF16), std::pair(2, KvType::kInt8)}) {
    ThreadPool pool(threads);
    for (const Heads h : {Heads{9, 3, 64}, Heads{5, 1, 24}}) {
      for (const bool whole_blocks : {false, true}) {
        Scene scene(type, h.heads, h.kv_heads, h.head_dim, whole_blocks ? kBlocks : kSequences, pool);
        if (whole_blocks) scene.SeeWholeBlocks();
        for (const int32_t window : kWindows) {
          EXPECT_TRUE(SameBits(scene.Run(pool, window), scene.Reference(window)))
              << KvTypeName(type) << ", " << h.heads << " heads, dim " << h.head_dim << ", window " << window
              << ", whole blocks " << whole_blocks << ", " << threads << " threads";
        }
      }
    }
  }
}

TEST_P(AttentionTest, AWindowLeavesOutJustWhatLiesBeforeIt) {
  ThreadPool pool(2);
  for (const int32_t window : kWindows) {
    Scene scene(KvType::kF32, 4, 2, 16, {{600, 40}}, pool);
    const std::vector<float> out = scene.Run(pool, window);
    // What the first row's window leaves out may be anything; what a later row leaves out differs by row.
    const int32_t first_seen = scene.rows[0].FirstSeen(0, window);
    EXPECT_EQ(first_seen, std::max(0, 560 - window + 1));
    std::vector<float> k(32, NAN), v(32, NAN);
    for (int32_t position = 0; position < first_seen; ++position) {
      const SequenceRows one = {0, 1, position, scene.tables[0]};
      WriteKv(k.data(), v.data(), 32, 1, {&one, 1}, *scene.cache, pool);
    }
    EXPECT_TRUE(SameBits(scene.Run(pool, window), out)) << window;
    if (first_seen == 0) continue;
    // The first position that is seen does count.
    const SequenceRows one = {0, 1, first_seen, scene.tables[0]};
    WriteKv(k.data(), v.data(), 32, 1, {&one, 1}, *scene.cache, pool);
    EXPECT_TRUE(std::isnan(scene.Run(pool, window)[0])) << window;
  }
}

TEST_P(AttentionTest, WithAWindowARowDoesNotDependOnTheOthersOfItsStep) {
  ThreadPool pool(2);
  const Scene scene(KvType::kBF16, 9, 3, 64, {{300, 70}, {700, 9}}, pool);
  for (const int32_t window : {9, 250, 300}) {
    const std::vector<float> together = scene.Run(pool, window);
    for (const SequenceRows& rows : scene.rows) {
      for (int i = 0; i < rows.num_rows; ++i) {
        const SequenceRows alone = {0, 1, rows.first_position + i, rows.blocks};
        const int64_t at = (rows.first_row + i) * scene.stride();
        std::vector<float> out(scene.stride(), 7.0f);
        Attention(scene.q.data() + at, scene.stride(), 1, {&alone, 1}, *scene.cache, 9, scene.scale(),
                  out.data(), scene.stride(), pool, window);
        EXPECT_TRUE(SameBits(out, {together.begin() + at, together.begin() + at + scene.stride()}))
            << "row " << i << ", window " << window;
      }
    }
  }
}

TEST_P(AttentionTest, AWindowOfTheWholeSequenceChangesNothing) {
  ThreadPool pool(1);
  const Scene scene(KvType::kBF16, 9, 3, 64, kSequences, pool);
  EXPECT_TRUE(SameBits(scene.Run(pool, 1025), scene.Run(pool)));
}

TEST_P(AttentionTest, ExtremeScoresStayFinite) {
  ThreadPool pool(1);
  Scene scene(KvType::kF32, 2, 1, 16, {{600, 4}}, pool);
  for (float& v : scene.q) v *= 1e4f;  // differences of scores far beyond what exp can represent
  const std::vector<float> out = scene.Run(pool);
  for (const float v : out) ASSERT_TRUE(std::isfinite(v));
  EXPECT_TRUE(SameBits(out, scene.Reference()));
}

INSTANTIATE_TEST_SUITE_P(Targets, AttentionTest, testing::ValuesIn(AvailableTargets()),
                         [](const auto& info) { return info.param; });

TEST(Attention, IsAccurateAgainstDoublePrecision) {
  // With f32 KV a score errs by at most (head_dim + 1) 2^-24 sum |q k scale|, here below 64 * 2^-24 * 16 =
  // 6e-5, and an exponential's relative error is that plus 3 ulp; sums over n positions add n 2^-24 to the
  // largest |v| < 6.
  ThreadPool pool(1);
  const Scene scene(KvType::kF32, 3, 1, 64, {{700, 3}}, pool);
  const std::vector<float> out = scene.Run(pool);
  for (int i = 0; i < 3; ++i) {
    for (int h = 0; h < 3; ++h) {
      const int visible = 698 + i;
      const float* const q = scene.q.data() + i * scene.stride() + h * 64;
      std::vector<double> e(visible), sum(64);
      double total = 0;
      for (int p = 0; p < visible; ++p) {
        double s = 0;
        for (int d = 0; d < 64; ++d) s += double{q[d]} * scene.scale() * scene.keys[0][p * 64 + d];
        e[p] = std::exp(s);
        total += e[p];
        for (int d = 0; d < 64; ++d) sum[d] += e[p] * scene.values[0][p * 64 + d];
      }
      for (int d = 0; d < 64; ++d) {
        ASSERT_NEAR(out[i * scene.stride() + h * 64 + d], sum[d] / total, 6 * (2 * 6e-5 + 700 * 0x1p-24))
            << i << h << d;
      }
    }
  }
}

TEST(ReadKv, GivesBackWhatWasWritten) {
  ThreadPool pool(1);
  const Scene scene(KvType::kF32, 6, 3, 24, {{37, 1}, {20, 1}}, pool);
  for (size_t s = 0; s < scene.rows.size(); ++s) {
    const int width = 3 * 24, length = scene.rows[s].first_position + 1;
    for (int position = 0; position < length; ++position) {
      std::vector<float> k(width), v(width);
      ReadKv(*scene.cache, 1, scene.rows[s].blocks, position, k.data(), v.data());
      const auto at = position * width;
      EXPECT_TRUE(SameBits(k, {scene.keys[s].begin() + at, scene.keys[s].begin() + at + width}));
      EXPECT_TRUE(SameBits(v, {scene.values[s].begin() + at, scene.values[s].begin() + at + width}));
    }
  }
}

TEST(WriteKv, RoundsToBF16ToNearestEven) {
  ThreadPool pool(1);
  auto cache = KvCache::Create(KvLayout::Create(KvType::kBF16, {{1, 8}}), 1);
  ASSERT_TRUE(cache.ok());
  const int32_t block = 0;
  const SequenceRows rows = {0, 1, 3, {&block, 1}};
  const std::vector<float> k = {1.0f, 0x1.01p0f, 0x1.03p0f, 0x1.0101p0f, -2.5f, 0.0f, 1e-40f, 3e38f};
  WriteKv(k.data(), k.data(), 8, 0, {&rows, 1}, **cache, pool);
  const uint16_t expected[] = {0x3f80, 0x3f80, 0x3f82, 0x3f81, 0xc020, 0x0000, 0x0001, 0x7f62};
  const auto* const stored = reinterpret_cast<const uint16_t*>((*cache)->block(0));
  for (int d = 0; d < 8; ++d) {
    EXPECT_EQ(stored[d * 16 + 3], expected[d]) << d;          // K [head_dim][16]
    EXPECT_EQ(stored[8 * 16 + 3 * 8 + d], expected[d]) << d;  // V [16][head_dim]
  }
}

TEST(WriteKv, RoundsToInt8ByPositionAndHead) {
  ThreadPool pool(1);
  auto cache = KvCache::Create(KvLayout::Create(KvType::kInt8, {{2, 8}}), 1);
  ASSERT_TRUE(cache.ok());
  EXPECT_EQ((*cache)->layout().half_bytes(0), 8 * 16);
  EXPECT_EQ((*cache)->layout().head_bytes(0), 2 * 8 * 16 + 2 * 16 * 4);
  EXPECT_EQ((*cache)->layout().position_bytes(), 2 * (2 * 8 + 2 * 4));
  const int32_t block = 0;
  const SequenceRows rows = {0, 1, 3, {&block, 1}};
  // 1 of 127 steps; halves go to even. The second head: too small for a scale, and not finite.
  const std::vector<float> k = {127,    -127,    0, 0.5f, 1.5f, -2.5f, 63.4f, 1e-9f,  //
                                1e-38f, -1e-38f, 0, 0,    0,    0,     0,     0};
  std::vector<float> v = k;
  v[9] = INFINITY;
  WriteKv(k.data(), v.data(), 16, 0, {&rows, 1}, **cache, pool);
  const int8_t expected[] = {127, -127, 0, 0, 2, -2, 63, 0};
  const auto* const stored = reinterpret_cast<const int8_t*>((*cache)->block(0));
  for (int d = 0; d < 8; ++d) {
    EXPECT_EQ(stored[d * 16 + 3], expected[d]) << d;          // K [head_dim][16]
    EXPECT_EQ(stored[8 * 16 + 3 * 8 + d], expected[d]) << d;  // V [16][head_dim]
  }
  std::vector<float> read_k(16), read_v(16);
  ReadKv(**cache, 0, rows.blocks, 3, read_k.data(), read_v.data());
  for (int d = 0; d < 8; ++d) {
    EXPECT_EQ(read_k[d], expected[d]) << d;
    EXPECT_EQ(read_v[d], expected[d]) << d;
    EXPECT_EQ(read_k[8 + d], 0) << d;
    EXPECT_TRUE(std::isnan(read_v[8 + d])) << d;
  }
}

TEST(WriteKv, Int8ErrsByHalfAStepAndChangesNoOtherPosition) {
  ThreadPool pool(1);
  const Scene scene(KvType::kInt8, 6, 3, 24, {{37, 1}, {20, 1}}, pool);
  for (size_t s = 0; s < scene.rows.size(); ++s) {
    const int width = 3 * 24, length = scene.rows[s].first_position + 1;
    for (int position = 0; position < length; ++position) {
      std::vector<float> k(width), v(width);
      ReadKv(*scene.cache, 1, scene.rows[s].blocks, position, k.data(), v.data());
      for (int head = 0; head < 3; ++head) {
        const auto largest = [&](const std::vector<float>& all) {
          float most = 0;
          for (int d = 0; d < 24; ++d)
            most = std::max(most, std::fabs(all[position * width + head * 24 + d]));
          return most;
        };
        // Half a step of 1 / 127 of the largest, and the roundings of f32.
        const float k_bound = largest(scene.keys[s]) * (0.5f / 127 + 1e-6f);
        const float v_bound = largest(scene.values[s]) * (0.5f / 127 + 1e-6f);
        for (int d = head * 24; d < head * 24 + 24; ++d) {
          ASSERT_NEAR(k[d], scene.keys[s][position * width + d], k_bound) << position << ", " << d;
          ASSERT_NEAR(v[d], scene.values[s][position * width + d], v_bound) << position << ", " << d;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
