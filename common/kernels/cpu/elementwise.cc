#include "common/kernels/elementwise.h"

#include "common/kernels/cpu/reference.h"

namespace tandem::kernels {

void RmsNorm(const float* x, std::span<const float> w, float eps, int tokens, float* y, ThreadPool& pool) {
  pool.ForEachTile(tokens, [&](int t) {
    const size_t at = t * w.size();
    RmsNormReference({x + at, w.size()}, w, eps, {y + at, w.size()});
  });
}

void RmsNormHeads(float* x, int64_t stride, int tokens, int heads, std::span<const float> w, float eps,
                  ThreadPool& pool) {
  pool.ForEachTile(tokens, [&](int t) {
    for (int h = 0; h < heads; ++h) {
      const std::span<float> head(x + t * stride + h * w.size(), w.size());
      RmsNormReference(head, w, eps, head);
    }
  });
}

void AddInPlace(float* x, const float* y, int64_t n, ThreadPool&) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

void SwiGlu(const float* gate, const float* up, int tokens, int64_t dim, float* out, ThreadPool& pool) {
  pool.ForEachTile(tokens, [&](int t) {
    for (int64_t i = t * dim; i < (t + 1) * dim; ++i) out[i] = SiluReference(gate[i]) * up[i];
  });
}

void EmbeddingLookup(const Matrix& table, std::span<const int32_t> ids, float* out, ThreadPool& pool) {
  pool.ForEachTile(static_cast<int>(ids.size()), [&](int t) {
    table.DequantizeRow(ids[t], {out + t * table.cols(), static_cast<size_t>(table.cols())});
  });
}

void Rope(float* x, int64_t stride, std::span<const int32_t> positions, int heads, int head_dim,
          const float* cos, const float* sin, ThreadPool& pool) {
  pool.ForEachTile(static_cast<int>(positions.size()), [&](int t) {
    const size_t half = head_dim / 2;
    const std::span<const float> c(cos + positions[t] * half, half), s(sin + positions[t] * half, half);
    for (int h = 0; h < heads; ++h) {
      RopeReference({x + t * stride + int64_t{h} * head_dim, static_cast<size_t>(head_dim)}, c, s);
    }
  });
}

}  // namespace tandem::kernels
