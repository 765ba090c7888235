// y[t, r] = sum_c x[t, c] * w[r, c]: the linear layers, for 1 to thousands of tokens.
//
// Batch invariance: y[t, r] is computed by one fixed sequence of operations on x[t, :] and w[r, :], whatever
// the number of tokens, the tiling or the thread. f32 and bf16 weights, and quantised weights with f32 or
// bf16 activations:
//   acc = 0; for c = 0, 1, ..., cols-1: acc = fma(x[t, c], w[r, c], acc)      (w dequantised to f32, x
//   rounded first)
// int8 activations with quantised weights, per block b of 32 columns:
//   isum = sum_c q[r, c] * xq[t, c]   (exact int32)
//   acc  = fma(float(isum), scale_w[r, b] * scale_x[t, b], fma(minimum[r, b], sum_x[t, b], acc))
// where the inner fma is left out for matrices without minimum, and sum_x = scale_x * float(sum of xq).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/thread_pool.h"
#include "common/kernels/matrix.h"
#include "common/kernels/types.h"

namespace tandem::kernels {

// One step's inputs to a matrix product, rounded once and used by several matrices (q, k, v; gate, up).
// Sized at construction; Load does not allocate.
class Activations {
 public:
  Activations(int max_tokens, int max_cols, ActivationType type);

  // Takes x [tokens, cols] f32, row-major. Rounds to bf16, or to int8 per block of 32 columns (if cols is a
  // multiple of 32, as quantised weights demand):
  // scale = max|x| / 127, xq = round-to-nearest-even(x / scale), all f32. A block whose scale would be
  // subnormal counts as zeros, scale 0; one with a value that is not finite has a NaN scale and quants 0.
  // Also keeps x itself (borrowed until the next Load), for f32 and bf16 weights.
  void Load(std::span<const float> x, int tokens, int cols, ThreadPool& pool);

  // The same for rows that come one at a time, kInt8 only: no rows of `cols` yet, then one row more, its
  // parts side by side, each a multiple of 32 long. Nothing is kept of x itself.
  void Begin(int cols);
  void Append(std::span<const std::span<const float>> parts);

  ActivationType type() const { return type_; }
  int tokens() const { return tokens_; }
  int cols() const { return cols_; }
  const float* f32() const { return f32_; }      // [tokens, cols], rounded to bf16 if type() is kBF16
  const int8_t* q() const { return q_.data(); }  // [tokens, cols]
  const float* scales() const { return scales_.data(); }  // [tokens, cols / 32]
  const float* sums() const {
    return sums_.data();
  }  // [tokens, cols / 32]: scale * float(sum of the block's xq)
  // [tokens, cols / 32]: minus the sum of the block's xq, where products with offset quants begin.
  const int32_t* negated_sums() const { return negated_sums_.data(); }

 private:
  ActivationType type_;
  int tokens_ = 0, cols_ = 0;
  const float* f32_ = nullptr;
  std::vector<float> rounded_, scales_, sums_;
  std::vector<int32_t> negated_sums_;
  std::vector<int8_t> q_;
};

// y [tokens, w.rows()] f32, row-major with `stride` floats between tokens (0 = w.rows()). x.cols() ==
// w.cols(). y must not overlap x. No allocation.
void Gemm(const Activations& x, const Matrix& w, float* y, int64_t stride, ThreadPool& pool);

// Several matrices on the same input in one parallel loop: ys[i] as above. Same results as separate calls.
struct GemmOutput {
  const Matrix* w;
  float* y;
  int64_t stride = 0;
};
void GemmMany(const Activations& x, std::span<const GemmOutput> outputs, ThreadPool& pool);

// The plain loops, literally as written above; the oracle of the tests.
void GemmReference(const Activations& x, const Matrix& w, float* y, int64_t stride);

}  // namespace tandem::kernels
