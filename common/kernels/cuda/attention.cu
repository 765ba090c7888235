#include <algorithm>

#include "common/kernels/cuda/attention.h"
#include "common/kernels/cuda/device_math.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

constexpr int kSpan = kAttentionSpan, kTile = kKvBlockPositions;
constexpr int kSpanTiles = kSpan / kTile;
constexpr int kThreads = kSpan;  // one for each position of a span
constexpr int kWriteThreads = 128;

// What both kernels of Attention get.
struct Task {
  const float* q;
  int64_t q_stride;
  float* out;
  int64_t out_stride;
  const std::byte* layer;  // its part of block 0
  int64_t block_bytes, head_bytes, half_bytes;
  int num_heads, heads_per_kv, head_dim;
  float scale;
  int32_t window;
  const DeviceSequence* sequences;
  const AttentionGroup* groups;
  const int32_t* sequence_of_row;
  const int32_t* blocks;
  float* partials;  // [tokens, num_heads, max_spans, 2 + head_dim]: m, l, o; null: spans are not apart
  int max_spans;
};

// SequenceRows::LastSeen and FirstSeen.
__device__ __forceinline__ int32_t LastSeen(const DeviceSequence& s, int32_t row) {
  return s.first_position + (s.whole_block ? s.num_rows - 1 : row);
}
__device__ __forceinline__ int32_t FirstSeen(const DeviceSequence& s, int32_t row, int32_t window) {
  const int32_t last = LastSeen(s, row);
  return window == 0 || last < window ? 0 : last - window + 1;
}

__device__ __forceinline__ float Max(float a, float b) { return a > b ? a : b; }

__device__ __forceinline__ float* PartialOf(const Task& task, int64_t token, int head, int span) {
  return task.partials +
         ((token * task.num_heads + head) * task.max_spans + span) * (2 + int64_t{task.head_dim});
}

// Block (g, h, s): group g, KV head h and, if spans are apart, the s-th span that the group sees; else all.
template <typename T, int kPairs>
__global__ void __launch_bounds__(kThreads) SpanKernel(Task task) {
  const AttentionGroup group = task.groups[blockIdx.x];
  const DeviceSequence sequence = task.sequences[group.sequence];
  const int32_t* const blocks = task.blocks + sequence.first_block;
  const int kv_head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int head_dim = task.head_dim;
  // What the group sees: rows ascend with pairs, and what they see with rows.
  const int32_t group_first = FirstSeen(sequence, group.first_pair / task.heads_per_kv, task.window);
  const int32_t group_last = LastSeen(sequence, (group.first_pair + group.num_pairs - 1) / task.heads_per_kv);
  int first_span = group_first / kSpan, last_span = group_last / kSpan;
  if (task.partials != nullptr) {
    first_span += static_cast<int>(blockIdx.z);
    if (first_span > last_span) return;  // the whole block does
    last_span = first_span;
  }

  TANDEM_SHARED(float, q);                   // [kPairs][head_dim], scaled
  float* const s = q + kPairs * head_dim;    // [kPairs][kSpan]: scores, then weights
  float* const c = s + kPairs * kSpan;       // [kPairs][kSpanTiles]: what a tile multiplies the sums with
  float* const m = c + kPairs * kSpanTiles;  // [kPairs]
  float* const l = m + kPairs;               // [kPairs]
  int32_t* const first = reinterpret_cast<int32_t*>(l + kPairs);  // [kPairs]
  int32_t* const last = first + kPairs;                           // [kPairs]
  const auto token_of = [&](int pair) {
    return int64_t{sequence.first_row} + (group.first_pair + pair) / task.heads_per_kv;
  };
  const auto head_of = [&](int pair) {
    return kv_head * task.heads_per_kv + (group.first_pair + pair) % task.heads_per_kv;
  };
  for (int i = thread; i < group.num_pairs * head_dim; i += kThreads) {
    const int pair = i / head_dim;
    q[i] = task.q[token_of(pair) * task.q_stride + int64_t{head_of(pair)} * head_dim + i % head_dim] *
           task.scale;
  }
  if (thread < group.num_pairs) {
    const int32_t row = (group.first_pair + thread) / task.heads_per_kv;
    first[thread] = FirstSeen(sequence, row, task.window);
    last[thread] = LastSeen(sequence, row);
  }
  __syncthreads();

  // Threads that add up values: thread (g, d) dimension d of pairs g, g + groups, ...
  const int d_threads = (head_dim + kWarp - 1) / kWarp * kWarp;
  const int d = thread % d_threads, first_pair = thread / d_threads, pair_step = kThreads / d_threads;
  const bool adds = d < head_dim && first_pair < pair_step;
  float total_m[kPairs] = {}, total_l[kPairs] = {}, total_o[kPairs] = {};

  for (int span = first_span; span <= last_span; ++span) {
    // Scores of a position, for all pairs.
    const int32_t position = span * kSpan + thread;
    float score[kPairs];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) score[i] = 0.0f;
    if (group_first <= position && position <= group_last) {
      const T* const k = reinterpret_cast<const T*>(task.layer + blocks[position / kTile] * task.block_bytes +
                                                    kv_head * task.head_bytes) +
                         position % kTile;
      for (int e = 0; e < head_dim; ++e) {
        const float key = ToFloat(k[int64_t{e} * kTile]);
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
          if (i < group.num_pairs) score[i] = fmaf(q[i * head_dim + e], key, score[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (i >= group.num_pairs) continue;
      s[i * kSpan + thread] = first[i] <= position && position <= last[i] ? score[i] : -Infinity();
    }
    __syncthreads();

    // Running maximum and sum of a pair, tile by tile, by 16 threads, one for each position of a tile. All
    // take part in the shuffles; those without a pair have nothing to say.
    const int pair = thread / kTile, lane = thread % kTile;
    const bool has_pair = pair < group.num_pairs;
    float running_m = -Infinity(), running_l = 0.0f;
    for (int tile = 0; tile < kSpanTiles; ++tile) {
      const int32_t tile_begin = span * kSpan + tile * kTile;
      const float value = has_pair ? s[pair * kSpan + tile * kTile + lane] : -Infinity();
      float best = value;
      for (int mask = kTile / 2; mask >= 1; mask /= 2) {
        best = Max(best, __shfl_xor_sync(0xffffffffu, best, mask, kTile));
      }
      const float next_m = Max(running_m, best);
      const float factor = Exp(running_m - next_m);
      const bool sees_lane = has_pair && first[pair] <= tile_begin + lane && tile_begin + lane <= last[pair];
      const float weight = sees_lane ? Exp(value - next_m) : 0.0f;
      float sum = weight;
      for (int mask = kTile / 2; mask >= 1; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask, kTile);
      const bool sees_tile = has_pair && first[pair] < tile_begin + kTile && tile_begin <= last[pair];
      if (!sees_tile) continue;
      running_l = fmaf(running_l, factor, sum);
      running_m = next_m;
      s[pair * kSpan + tile * kTile + lane] = weight;
      if (lane == 0) c[pair * kSpanTiles + tile] = factor;
    }
    if (has_pair && lane == 0) {
      m[pair] = running_m;
      l[pair] = running_l;
    }
    __syncthreads();

    // Weighted sums of values, and the spans so far.
    if (adds) {
      float o[kPairs];
#pragma unroll
      for (int n = 0; n < kPairs; ++n) o[n] = 0.0f;
      for (int tile = 0; tile < kSpanTiles; ++tile) {
        const int32_t tile_begin = span * kSpan + tile * kTile;
        if (tile_begin + kTile <= group_first || tile_begin > group_last) continue;
        const T* const v =
            reinterpret_cast<const T*>(task.layer + blocks[tile_begin / kTile] * task.block_bytes +
                                       kv_head * task.head_bytes + task.half_bytes) +
            d;
#pragma unroll
        for (int n = 0; n < kPairs; ++n) {
          const int i = first_pair + n * pair_step;
          if (i < group.num_pairs && first[i] < tile_begin + kTile && tile_begin <= last[i]) {
            o[n] *= c[i * kSpanTiles + tile];
          }
        }
        for (int j = 0; j < kTile; ++j) {
          const int32_t at = tile_begin + j;
          if (at < group_first || at > group_last) continue;
          const float value = ToFloat(v[int64_t{j} * head_dim]);
#pragma unroll
          for (int n = 0; n < kPairs; ++n) {
            const int i = first_pair + n * pair_step;
            if (i < group.num_pairs && first[i] <= at && at <= last[i]) {
              o[n] = fmaf(s[i * kSpan + at - span * kSpan], value, o[n]);
            }
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kPairs; ++n) {
        const int i = first_pair + n * pair_step;
        if (i >= group.num_pairs || first[i] / kSpan > span || last[i] / kSpan < span) continue;
        if (task.partials != nullptr) {
          float* const partial = PartialOf(task, token_of(i), head_of(i), span - first[i] / kSpan);
          if (d == 0) {
            partial[0] = m[i];
            partial[1] = l[i];
          }
          partial[2 + d] = o[n];
        } else if (span == first[i] / kSpan) {
          total_m[n] = m[i];
          total_l[n] = l[i];
          total_o[n] = o[n];
        } else {
          const float joined = Max(total_m[n], m[i]);
          const float a = Exp(total_m[n] - joined), b = Exp(m[i] - joined);
          total_l[n] = fmaf(total_l[n], a, l[i] * b);
          total_o[n] = fmaf(total_o[n], a, o[n] * b);
          total_m[n] = joined;
        }
      }
    }
    __syncthreads();
  }
  if (task.partials != nullptr || !adds) return;
#pragma unroll
  for (int n = 0; n < kPairs; ++n) {
    const int i = first_pair + n * pair_step;
    if (i >= group.num_pairs) continue;
    task.out[token_of(i) * task.out_stride + int64_t{head_of(i)} * head_dim + d] = total_o[n] / total_l[n];
  }
}

// Block (t, h): joins the spans of token t and query head h.
__global__ void JoinKernel(Task task) {
  const int64_t token = blockIdx.x;
  const int head = static_cast<int>(blockIdx.y), d = static_cast<int>(threadIdx.x);
  const DeviceSequence sequence = task.sequences[task.sequence_of_row[token]];
  const auto row = static_cast<int32_t>(token - sequence.first_row);
  const int num_spans = LastSeen(sequence, row) / kSpan - FirstSeen(sequence, row, task.window) / kSpan + 1;
  if (d >= task.head_dim) return;
  const float* partial = PartialOf(task, token, head, 0);
  float m = partial[0], l = partial[1], o = partial[2 + d];
  for (int span = 1; span < num_spans; ++span) {
    partial = PartialOf(task, token, head, span);
    const float joined = Max(m, partial[0]);
    const float a = Exp(m - joined), b = Exp(partial[0] - joined);
    l = fmaf(l, a, partial[1] * b);
    o = fmaf(o, a, partial[2 + d] * b);
    m = joined;
  }
  task.out[token * task.out_stride + int64_t{head} * task.head_dim + d] = o / l;
}

template <typename T, int kPairs>
void RunSpans(const Task& task, int num_groups, int kv_heads, Device& device) {
  const int64_t floats = int64_t{kPairs} * (task.head_dim + kSpan + kSpanTiles + 2) + int64_t{kPairs} * 2;
  Launch(device, SpanKernel<T, kPairs>,
         Blocks(num_groups, kv_heads, task.partials == nullptr ? 1 : task.max_spans), Blocks(kThreads),
         floats * sizeof(float), task);
}

// Block (t, h): K and V of token t and KV head h.
template <typename T>
__global__ void WriteKvKernel(const float* k, const float* v, int64_t stride, const DeviceSequence* sequences,
                              const int32_t* sequence_of_row, const int32_t* block_tables, std::byte* layer,
                              int64_t block_bytes, int64_t head_bytes, int64_t half_bytes, int head_dim) {
  const int64_t token = blockIdx.x;
  const DeviceSequence sequence = sequences[sequence_of_row[token]];
  const auto position = static_cast<int32_t>(sequence.first_position + token - sequence.first_row);
  const int32_t block = block_tables[sequence.first_block + position / kTile];
  std::byte* const head = layer + block * block_bytes + blockIdx.y * head_bytes;
  T* const k_to = reinterpret_cast<T*>(head) + position % kTile;
  T* const v_to = reinterpret_cast<T*>(head + half_bytes) + int64_t{position % kTile} * head_dim;
  const int64_t from = token * stride + int64_t{blockIdx.y} * head_dim;
  for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += static_cast<int>(blockDim.x)) {
    Store(k[from + d], k_to + int64_t{d} * kTile);
    Store(v[from + d], v_to + d);
  }
}

}  // namespace

void WriteKv(const float* k, const float* v, int64_t stride, int layer, const StepTables& step,
             DeviceKv cache, Device& device) {
  const KvLayout& layout = cache.layout;
  const auto [kv_heads, head_dim] = layout.layers[layer];
  const auto kernel = layout.type == KvType::kF32 ? WriteKvKernel<float> : WriteKvKernel<uint16_t>;
  Launch(device, kernel, Blocks(step.num_tokens(), kv_heads), Blocks(kWriteThreads), 0, k, v, stride,
         step.sequences(), step.sequence_of_row(), step.blocks(), cache.data + layout.layer_offset[layer],
         layout.block_bytes, layout.head_bytes(layer), layout.half_bytes(layer), head_dim);
}

void Attention(const float* q, int64_t q_stride, int layer, const StepTables& step, DeviceKv cache,
               float scale, float* out, int64_t out_stride, int32_t window, std::span<float> partials,
               Device& device) {
  const KvLayout& layout = cache.layout;
  const auto [kv_heads, head_dim] = layout.layers[layer];
  const int num_heads = kv_heads * step.heads_per_kv();
  // A window lies in one span more than it has in full, at most.
  int max_spans = step.last_seen() / kSpan + 1;
  if (window > 0) max_spans = std::min(max_spans, (window + step.num_tokens() - 2) / kSpan + 2);
  const int64_t partial_floats = int64_t{step.num_tokens()} * num_heads * max_spans * (2 + head_dim);
  const bool few_blocks =
      int64_t{step.num_groups()} * kv_heads < 2 * int64_t{device.facts().num_multiprocessors};
  const bool apart = max_spans > 1 && few_blocks && partial_floats <= static_cast<int64_t>(partials.size());
  const Task task = {q,
                     q_stride,
                     out,
                     out_stride,
                     cache.data + layout.layer_offset[layer],
                     layout.block_bytes,
                     layout.head_bytes(layer),
                     layout.half_bytes(layer),
                     num_heads,
                     step.heads_per_kv(),
                     head_dim,
                     scale,
                     window,
                     step.sequences(),
                     step.groups(),
                     step.sequence_of_row(),
                     step.blocks(),
                     apart ? partials.data() : nullptr,
                     max_spans};
  // Fewer pairs take fewer registers; the bits are the same.
  const bool few_pairs = step.largest_group() <= 4;
  if (layout.type == KvType::kF32) {
    few_pairs ? RunSpans<float, 4>(task, step.num_groups(), kv_heads, device)
              : RunSpans<float, 16>(task, step.num_groups(), kv_heads, device);
  } else {
    few_pairs ? RunSpans<uint16_t, 4>(task, step.num_groups(), kv_heads, device)
              : RunSpans<uint16_t, 16>(task, step.num_groups(), kv_heads, device);
  }
  if (!apart) return;
  Launch(device, JoinKernel, Blocks(step.num_tokens(), num_heads), Blocks(CeilDiv(head_dim, kWarp) * kWarp),
         0, task);
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
