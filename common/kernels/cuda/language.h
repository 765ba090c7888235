// CUDA C++ for the kernels (.cu), from nvcc or from its emulation in plain C++ (emulate/block.h); and how a
// kernel is launched. Only .cu files include it.
#pragma once

#include "common/kernels/cuda/device.h"

#ifdef TANDEM_CUDA_EMULATED

#include "common/kernels/cuda/emulate/block.h"

// The block's dynamic shared memory as an array of T.
#define TANDEM_SHARED(T, name) T* const name = reinterpret_cast<T*>(emulate::SharedMemory())

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

template <typename... Parameters, typename... Arguments>
void Launch(Device&, void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes,
            Arguments... arguments) {
  emulate::RunGrid(grid, block, shared_bytes, [&] { kernel(arguments...); });
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda

#else

#include <cuda_runtime.h>

#define TANDEM_SHARED(T, name)                               \
  extern __shared__ __align__(16) std::byte tandem_shared[]; \
  T* const name = reinterpret_cast<T*>(tandem_shared)

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

// On the device's stream; a launch that the driver refuses ends the process.
template <typename... Parameters, typename... Arguments>
void Launch(Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes,
            Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = device.stream();
  cudaLaunchKernelEx(&config, kernel, arguments...);
  device.CheckLaunch();
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda

#endif

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

inline dim3 Blocks(int64_t x, int64_t y = 1, int64_t z = 1) {
  return dim3{static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
}
inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
