// Row-wise operations between the matrix products. All row-major f32; rows are independent, hence batch
// invariant. Sums along a row use 16 virtual lanes (lane = column mod 16, columns ascending, fma) and the
// tree (0+8, 1+9, ...), then +4, +2, +1. Transcendental functions are the library's own (math.h), equal bits
// everywhere.
#pragma once

#include <cstdint>
#include <span>

#include "common/base/thread_pool.h"
#include "common/kernels/matrix.h"

namespace tandem::kernels {

// y[t, :] = (x[t, :] * r) * w with r = 1 / sqrt(sum(x[t, :]^2) / dim + eps); dim = w.size(). x, y [tokens,
// dim]. y may be x.
void RmsNorm(const float* x, std::span<const float> w, float eps, int tokens, float* y, ThreadPool& pool);

// The same, of each head of each token, in place: x [tokens, heads, head_dim] with `stride` floats between
// tokens.
void RmsNormHeads(float* x, int64_t stride, int tokens, int heads, std::span<const float> w, float eps,
                  ThreadPool& pool);

// x[i] += y[i], n elements.
void AddInPlace(float* x, const float* y, int64_t n, ThreadPool& pool);

// x[t, :] += b, dim = b.size(). x [tokens, dim].
void AddToRows(float* x, std::span<const float> b, int tokens, ThreadPool& pool);

// x[i] *= factor, n elements.
void ScaleInPlace(float* x, float factor, int64_t n, ThreadPool& pool);

// x[i] = cap * tanh(x[i] / cap) as cap * (1 - 2 / (1 + exp(2 (x[i] / cap)))), n elements; errs by about
// 2^-23 cap.
void SoftCapInPlace(float* x, float cap, int64_t n, ThreadPool& pool);

// out[t, i] = silu(gate[t, i]) * up[t, i], silu(a) = a / (1 + exp(-a)). [tokens, dim]; out may be gate or up.
void SwiGlu(const float* gate, const float* up, int tokens, int64_t dim, float* out, ThreadPool& pool);

// out[t, i] = gelu(gate[t, i]) * up[t, i], gelu(a) = a / (1 + exp(a * fma(a * a, -2 c 0.044715, -2 c))) with
// c = sqrt(2 / pi): the approximation by tanh. As SwiGlu else.
void GeGlu(const float* gate, const float* up, int tokens, int64_t dim, float* out, ThreadPool& pool);

// out[t, :] = row ids[t] of the embedding, dequantised. out [tokens, table.cols()]. ids checked by the
// caller.
void EmbeddingLookup(const Matrix& table, std::span<const int32_t> ids, float* out, ThreadPool& pool);

// Rotary embedding in place on x [tokens, heads, head_dim], `stride` floats between tokens: for pair (j, j +
// d/2) and the angle's row `positions[t]` of the tables,
//   (a, b) -> (fma(a, cos, -(b * sin)), fma(b, cos, a * sin)).
// cos, sin [max_position, head_dim / 2], from RopeTable.
void Rope(float* x, int64_t stride, std::span<const int32_t> positions, int heads, int head_dim,
          const float* cos, const float* sin, ThreadPool& pool);

}  // namespace tandem::kernels
