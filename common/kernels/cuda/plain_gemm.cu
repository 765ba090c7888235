#include "common/kernels/cuda/device_math.h"
#include "common/kernels/cuda/gemm.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

// A block computes kTileTokens x kTileRows elements of y, kTileCols columns of x and w at a time; a thread
// kTokensPerThread of them, all of one row of w.
constexpr int kTileTokens = 16, kTileRows = 64, kTileCols = 32;
constexpr int kThreads = 256;
constexpr int kTokensPerThread = kTileTokens * kTileRows / kThreads;
constexpr int kPaddedCols = kTileCols + 1;  // so that threads of neighbouring rows read different banks
constexpr int kSharedFloats = kTileTokens * kTileCols + kTileRows * kPaddedCols;

template <typename W>
__global__ void __launch_bounds__(kThreads)
    GemmKernel(const float* x, const W* w, int tokens, int rows, int cols, float* y) {
  TANDEM_SHARED(float, x_tile);                            // [kTileTokens][kTileCols]
  float* const w_tile = x_tile + kTileTokens * kTileCols;  // [kTileRows][kPaddedCols]
  const int thread = static_cast<int>(threadIdx.x);
  const int first_row = static_cast<int>(blockIdx.x) * kTileRows;
  const int first_token = static_cast<int>(blockIdx.y) * kTileTokens;
  const int row = thread % kTileRows;
  const int token = thread / kTileRows * kTokensPerThread;  // of the tile, the first of the thread's

  float acc[kTokensPerThread] = {};
  for (int c0 = 0; c0 < cols; c0 += kTileCols) {
    const int width = cols - c0 < kTileCols ? cols - c0 : kTileCols;
    for (int i = thread; i < kTileTokens * kTileCols; i += kThreads) {
      const int t = first_token + i / kTileCols, c = i % kTileCols;
      x_tile[i] = t < tokens && c < width ? x[int64_t{t} * cols + c0 + c] : 0.0f;
    }
    for (int i = thread; i < kTileRows * kTileCols; i += kThreads) {
      const int r = i / kTileCols, c = i % kTileCols;
      w_tile[r * kPaddedCols + c] =
          first_row + r < rows && c < width ? ToFloat(w[int64_t{first_row + r} * cols + c0 + c]) : 0.0f;
    }
    __syncthreads();
    for (int c = 0; c < width; ++c) {
      const float weight = w_tile[row * kPaddedCols + c];
#pragma unroll
      for (int i = 0; i < kTokensPerThread; ++i) {
        acc[i] = fmaf(x_tile[(token + i) * kTileCols + c], weight, acc[i]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    const int t = first_token + token + i;
    if (t < tokens && first_row + row < rows) y[int64_t{t} * rows + first_row + row] = acc[i];
  }
}

template <typename W>
void RunPlainGemm(const DeviceActivations& x, const W* w, int64_t rows, float* y, Device& device) {
  Launch(device, GemmKernel<W>, Blocks(CeilDiv(rows, kTileRows), CeilDiv(x.tokens(), kTileTokens)),
         Blocks(kThreads), kSharedFloats * sizeof(float), x.f32(), w, x.tokens(), static_cast<int>(rows),
         x.cols(), y);
}

__global__ void RoundKernel(const float* x, int64_t n, float* rounded, uint16_t* halves) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  halves[i] = ToBF16(x[i]);
  rounded[i] = ToFloat(halves[i]);
}

}  // namespace

void DeviceActivations::Load(const float* x, int tokens, int cols, Device& device) {
  tokens_ = tokens;
  cols_ = cols;
  f32_ = x;
  if (type_ == ActivationType::kF32) return;
  const int64_t n = int64_t{tokens} * cols;
  f32_ = rounded_.as<float>();
  Launch(device, RoundKernel, Blocks(CeilDiv(n, kThreads)), Blocks(kThreads), 0, x, n, rounded_.as<float>(),
         halves_.as<uint16_t>());
}

void PlainGemm(const DeviceActivations& x, const DeviceMatrix& w, float* y, Device& device) {
  if (w.type() == WeightType::kF32) {
    RunPlainGemm(x, w.f32(), w.rows(), y, device);
  } else {
    RunPlainGemm(x, w.bf16(), w.rows(), y, device);
  }
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
