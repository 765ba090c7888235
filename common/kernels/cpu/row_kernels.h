// The row-wise operations on one thread, on the target chosen by dispatch.h; elementwise.h and gemm.h say
// what they compute, reference.h says it in plain loops.
#pragma once

#include <cstdint>

namespace tandem::kernels {

void RmsNormRow(const float* x, const float* w, float eps, int64_t n, float* y);
// One head: n = head_dim / 2 pairs (x[j], x[j + n]).
void RopeHead(float* x, const float* cos, const float* sin, int64_t n);
void AddRow(float* x, const float* y, int64_t n);
void ScaleRow(float* x, float factor, int64_t n);
void SoftCapRow(float* x, float cap, int64_t n);
void SwiGluRow(const float* gate, const float* up, int64_t n, float* out);
void GeGluRow(const float* gate, const float* up, int64_t n, float* out);
// `blocks` blocks of 32 columns.
void QuantiseRow(const float* x, int64_t blocks, int8_t* q, float* scales, float* sums,
                 int32_t* negated_sums);

}  // namespace tandem::kernels
