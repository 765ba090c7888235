// The part of CUDA C++ that the kernels beside use, in plain C++: a block's threads are fibers on the calling
// thread, so that kernels run, and are tested, where there is neither a device nor nvcc.
//
// A fiber runs until it waits (__syncthreads, a shuffle) or ends; then the next one runs, in the order that
// SetSchedule asks for. What a test under it proves: indexing, arithmetic, that no thread reads beyond a
// buffer (they end at a page that may not be touched) or what nobody wrote (memory begins as NaN), and that a
// barrier stands wherever threads depend on each other: were one missing, some schedule would change the
// result. A barrier that not all threads of the block reach, and a shuffle that not all of the warp reach,
// end the process. What it cannot prove: races inside of one instruction's width, memory ordering, what
// registers and shared memory allow on a device, launches and copies that overlap, errors of the compiler or
// its options, speed.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace tandem::kernels::cuda::emulate {

inline constexpr int kWarpSize = 32;
inline constexpr int kMaxThreads = 1024;
inline constexpr int64_t kMaxSharedBytes = 48 << 10;  // what a kernel has without asking for more

// In which order the threads of a block, and the blocks of a grid, run.
enum class Schedule { kAscending, kDescending, kScattered };
void SetSchedule(Schedule schedule);

// Runs `body` for each thread of each block. Threads beyond the limits end the process.
void RunGrid(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& body);

// For the running thread.
void Barrier();
std::byte* SharedMemory();
uint32_t ShuffleXor(uint32_t value, int lane_mask, int width);

}  // namespace tandem::kernels::cuda::emulate

// Of the running thread; set before it goes on.
extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { tandem::kernels::cuda::emulate::Barrier(); }

inline float __shfl_xor_sync(unsigned, float value, int lane_mask, int width = 32) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = tandem::kernels::cuda::emulate::ShuffleXor(bits, lane_mask, width);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
