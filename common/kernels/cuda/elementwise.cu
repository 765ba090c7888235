#include <algorithm>

#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/elementwise.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

constexpr int kThreads = 256;

// Threads of a row's block: all that the row has work for. Of the row's length alone, as its sum depends on
// it.
dim3 RowThreads(int64_t dim) { return Blocks(std::min<int64_t>(kThreads, CeilDiv(dim, kWarp) * kWarp)); }

// Block (t, h): row h of token t.
__global__ void RmsNormKernel(const float* x, int64_t x_stride, const float* w, int dim, float eps, float* y,
                              int64_t y_stride) {
  TANDEM_SHARED(float, sums);
  const int64_t head_at = int64_t{blockIdx.y} * dim;
  const float* const from = x + blockIdx.x * x_stride + head_at;
  float* const to = y + blockIdx.x * y_stride + head_at;
  float sum = 0.0f;
  for (int c = static_cast<int>(threadIdx.x); c < dim; c += static_cast<int>(blockDim.x)) {
    sum = fmaf(from[c], from[c], sum);
  }
  const float r = 1.0f / sqrtf(BlockSum(sum, sums) / static_cast<float>(dim) + eps);
  for (int c = static_cast<int>(threadIdx.x); c < dim; c += static_cast<int>(blockDim.x)) {
    to[c] = from[c] * r * w[c];
  }
}

// y[i] = f(i) for n elements.
template <typename F>
__global__ void ElementKernel(int64_t n, float* y, F f) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) y[i] = f(i);
}

template <typename F>
void ForEachElement(int64_t n, float* y, F f, Device& device) {
  if (n == 0) return;
  Launch(device, ElementKernel<F>, Blocks(CeilDiv(n, kThreads)), Blocks(kThreads), 0, n, y, f);
}

struct Add {
  const float *x, *y;
  __device__ float operator()(int64_t i) const { return x[i] + y[i]; }
};
struct AddRow {
  const float *x, *b;
  int dim;
  __device__ float operator()(int64_t i) const { return x[i] + b[i % dim]; }
};
struct Scale {
  const float* x;
  float factor;
  __device__ float operator()(int64_t i) const { return x[i] * factor; }
};
struct SoftCap {
  const float* x;
  float cap;
  __device__ float operator()(int64_t i) const {
    return cap * (1.0f - 2.0f / (1.0f + Exp(2.0f * (x[i] / cap))));
  }
};
struct Silu {
  const float *gate, *up;
  __device__ float operator()(int64_t i) const {
    const float a = gate[i];
    return a / (1.0f + Exp(-a)) * up[i];
  }
};
struct Gelu {
  const float *gate, *up;
  __device__ float operator()(int64_t i) const {
    const float a = gate[i];
    return a / (1.0f + Exp(a * fmaf(a * a, kGeluCubic, kGeluLinear))) * up[i];
  }
};

// Block t: out[t, :] = table[ids[t], :].
template <typename T>
__global__ void GatherKernel(const T* table, const int32_t* ids, int dim, float* out) {
  const T* const row = table + int64_t{ids[blockIdx.x]} * dim;
  for (int c = static_cast<int>(threadIdx.x); c < dim; c += static_cast<int>(blockDim.x)) {
    out[int64_t{blockIdx.x} * dim + c] = ToFloat(row[c]);
  }
}

template <typename T>
void Gather(const T* table, const int32_t* ids, int n, int dim, float* out, Device& device) {
  if (n > 0) Launch(device, GatherKernel<T>, Blocks(n), RowThreads(dim), 0, table, ids, dim, out);
}

// Block t: all pairs of all heads of token t.
__global__ void RopeKernel(float* x, int64_t stride, const int32_t* positions, int heads, int half,
                           const float* cos, const float* sin) {
  const int64_t angles = int64_t{positions[blockIdx.x]} * half;
  for (int i = static_cast<int>(threadIdx.x); i < heads * half; i += static_cast<int>(blockDim.x)) {
    const int j = i % half;
    float* const head = x + blockIdx.x * stride + int64_t{i / half} * 2 * half;
    const float a = head[j], b = head[j + half];
    const float c = cos[angles + j], s = sin[angles + j];
    head[j] = fmaf(a, c, -(b * s));
    head[j + half] = fmaf(b, c, a * s);
  }
}

void Norm(const float* x, int64_t x_stride, int heads, const float* w, int dim, float eps, int tokens,
          float* y, int64_t y_stride, Device& device) {
  Launch(device, RmsNormKernel, Blocks(tokens, heads), RowThreads(dim), kThreads / kWarp * sizeof(float), x,
         x_stride, w, dim, eps, y, y_stride);
}

}  // namespace

void RmsNorm(const float* x, const float* w, int dim, float eps, int tokens, float* y, Device& device) {
  Norm(x, dim, 1, w, dim, eps, tokens, y, dim, device);
}

void RmsNormHeads(float* x, int64_t stride, int tokens, int heads, const float* w, int head_dim, float eps,
                  Device& device) {
  Norm(x, stride, heads, w, head_dim, eps, tokens, x, stride, device);
}

void AddInPlace(float* x, const float* y, int64_t n, Device& device) {
  ForEachElement(n, x, Add{x, y}, device);
}

void AddToRows(float* x, const float* b, int dim, int tokens, Device& device) {
  ForEachElement(int64_t{tokens} * dim, x, AddRow{x, b, dim}, device);
}

void ScaleInPlace(float* x, float factor, int64_t n, Device& device) {
  ForEachElement(n, x, Scale{x, factor}, device);
}

void SoftCapInPlace(float* x, float cap, int64_t n, Device& device) {
  ForEachElement(n, x, SoftCap{x, cap}, device);
}

void SwiGlu(const float* gate, const float* up, int64_t n, float* out, Device& device) {
  ForEachElement(n, out, Silu{gate, up}, device);
}

void GeGlu(const float* gate, const float* up, int64_t n, float* out, Device& device) {
  ForEachElement(n, out, Gelu{gate, up}, device);
}

void EmbeddingLookup(const DeviceMatrix& table, const int32_t* ids, int tokens, float* out, Device& device) {
  const int cols = static_cast<int>(table.cols());
  if (table.type() == WeightType::kF32) {
    Gather(table.f32(), ids, tokens, cols, out, device);
  } else {
    Gather(table.bf16(), ids, tokens, cols, out, device);
  }
}

void Rope(float* x, int64_t stride, const int32_t* positions, int tokens, int heads, int head_dim,
          const float* cos, const float* sin, Device& device) {
  const int half = head_dim / 2;
  Launch(device, RopeKernel, Blocks(tokens), RowThreads(int64_t{heads} * half), 0, x, stride, positions,
         heads, half, cos, sin);
}

void GatherRows(const float* x, const int32_t* rows, int n, int dim, float* y, Device& device) {
  Gather(x, rows, n, dim, y, device);
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
