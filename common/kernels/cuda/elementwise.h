// elementwise.h of the folder above, on the device: same names, same shapes; pointers are to device memory.
//
// Rows are independent of each other and of how many there are. The same bits as on the CPU, but for the
// norms: their sums run over the threads of a block (a fixed order, another one), so that a value errs by
// about (dim / 512 + 8) * 2^-24 of itself more or less.
#pragma once

#include <cstdint>

#include "common/kernels/cuda/device.h"
#include "common/kernels/cuda/device_matrix.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

// x, y [tokens, dim], w [dim]; y may be x.
void RmsNorm(const float* x, const float* w, int dim, float eps, int tokens, float* y, Device& device);
// x [tokens, heads, head_dim] in place, `stride` floats between tokens; w [head_dim].
void RmsNormHeads(float* x, int64_t stride, int tokens, int heads, const float* w, int head_dim, float eps,
                  Device& device);
void AddInPlace(float* x, const float* y, int64_t n, Device& device);
// x [tokens, dim], b [dim].
void AddToRows(float* x, const float* b, int dim, int tokens, Device& device);
void ScaleInPlace(float* x, float factor, int64_t n, Device& device);
void SoftCapInPlace(float* x, float cap, int64_t n, Device& device);
// gate, up, out: n elements; out may be gate or up.
void SwiGlu(const float* gate, const float* up, int64_t n, float* out, Device& device);
void GeGlu(const float* gate, const float* up, int64_t n, float* out, Device& device);
// out [tokens, table.cols()]; ids [tokens], checked by the caller.
void EmbeddingLookup(const DeviceMatrix& table, const int32_t* ids, int tokens, float* out, Device& device);
// x [tokens, heads, head_dim]; positions [tokens]; cos, sin [max_position, head_dim / 2].
void Rope(float* x, int64_t stride, const int32_t* positions, int tokens, int heads, int head_dim,
          const float* cos, const float* sin, Device& device);

// y[i, :] = x[rows[i], :]; x [.., dim], rows [n], y [n, dim].
void GatherRows(const float* x, const int32_t* rows, int n, int dim, float* y, Device& device);

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
