#include "common/kernels/elementwise.h"

#include "common/kernels/cpu/row_kernels.h"
#include "common/kernels/cpu/row_tiles.h"

namespace tandem::kernels {

void RmsNorm(const float* x, std::span<const float> w, float eps, int tokens, float* y, ThreadPool& pool) {
  const auto dim = static_cast<int64_t>(w.size());
  ForEachRange(tokens, dim, pool, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) RmsNormRow(x + t * dim, w.data(), eps, dim, y + t * dim);
  });
}

void RmsNormHeads(float* x, int64_t stride, int tokens, int heads, std::span<const float> w, float eps,
                  ThreadPool& pool) {
  const auto head_dim = static_cast<int64_t>(w.size());
  ForEachRange(tokens, heads * head_dim, pool, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int h = 0; h < heads; ++h) {
        float* const head = x + t * stride + h * head_dim;
        RmsNormRow(head, w.data(), eps, head_dim, head);
      }
    }
  });
}

void AddInPlace(float* x, const float* y, int64_t n, ThreadPool& pool) {
  ForEachRange(n, 1, pool, [&](int64_t begin, int64_t end) { AddRow(x + begin, y + begin, end - begin); });
}

void AddToRows(float* x, std::span<const float> b, int tokens, ThreadPool& pool) {
  const auto dim = static_cast<int64_t>(b.size());
  ForEachRange(tokens, dim, pool, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) AddRow(x + t * dim, b.data(), dim);
  });
}

void ScaleInPlace(float* x, float factor, int64_t n, ThreadPool& pool) {
  ForEachRange(n, 1, pool, [&](int64_t begin, int64_t end) { ScaleRow(x + begin, factor, end - begin); });
}

void SoftCapInPlace(float* x, float cap, int64_t n, ThreadPool& pool) {
  ForEachRange(n, 4, pool, [&](int64_t begin, int64_t end) { SoftCapRow(x + begin, cap, end - begin); });
}

void SwiGlu(const float* gate, const float* up, int tokens, int64_t dim, float* out, ThreadPool& pool) {
  ForEachRange(tokens * dim, 4, pool, [&](int64_t begin, int64_t end) {
    SwiGluRow(gate + begin, up + begin, end - begin, out + begin);
  });
}

void GeGlu(const float* gate, const float* up, int tokens, int64_t dim, float* out, ThreadPool& pool) {
  ForEachRange(tokens * dim, 4, pool, [&](int64_t begin, int64_t end) {
    GeGluRow(gate + begin, up + begin, end - begin, out + begin);
  });
}

void EmbeddingLookup(const Matrix& table, std::span<const int32_t> ids, float* out, ThreadPool& pool) {
  const int64_t cols = table.cols();
  ForEachRange(static_cast<int64_t>(ids.size()), cols, pool, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      table.DequantizeRow(ids[t], {out + t * cols, static_cast<size_t>(cols)});
    }
  });
}

void Rope(float* x, int64_t stride, std::span<const int32_t> positions, int heads, int head_dim,
          const float* cos, const float* sin, ThreadPool& pool) {
  const int64_t half = head_dim / 2;
  ForEachRange(static_cast<int64_t>(positions.size()), int64_t{heads} * head_dim, pool,
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   const int64_t angles = positions[t] * half;
                   for (int h = 0; h < heads; ++h) {
                     RopeHead(x + t * stride + int64_t{h} * head_dim, cos + angles, sin + angles, half);
                   }
                 }
               });
}

}  // namespace tandem::kernels
