// That the emulator finds what it says it finds, with kernels that are wrong on purpose.
#include "common/kernels/cuda/emulate/block.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/kernels/cuda/device.h"

namespace tandem::kernels::cuda::emulate {
namespace {

constexpr int kThreads = 96;

// Each thread takes its left neighbour's number through shared memory.
std::vector<int> NumbersFromTheLeft(Schedule schedule, bool with_barrier) {
  std::vector<int> taken(kThreads);
  SetSchedule(schedule);
  RunGrid({1}, {kThreads}, kThreads * sizeof(int), [&] {
    int* const numbers = reinterpret_cast<int*>(SharedMemory());
    const int t = static_cast<int>(threadIdx.x);
    numbers[t] = t;
    if (with_barrier) __syncthreads();
    taken[t] = numbers[(t + kThreads - 1) % kThreads];
  });
  SetSchedule(Schedule::kAscending);
  return taken;
}

TEST(EmulatedBlock, AMissingBarrierShowsInTheOrderOfThreads) {
  const auto ascending = NumbersFromTheLeft(Schedule::kAscending, true);
  EXPECT_EQ(ascending[0], kThreads - 1);
  EXPECT_EQ(ascending[5], 4);
  EXPECT_EQ(NumbersFromTheLeft(Schedule::kDescending, true), ascending);
  EXPECT_EQ(NumbersFromTheLeft(Schedule::kScattered, true), ascending);
  EXPECT_NE(NumbersFromTheLeft(Schedule::kDescending, false), ascending);
  EXPECT_NE(NumbersFromTheLeft(Schedule::kScattered, false), ascending);
}

TEST(EmulatedBlock, ShufflesStayWithinTheirWidthAndMayFollowEachOther) {
  for (const Schedule schedule : {Schedule::kAscending, Schedule::kDescending, Schedule::kScattered}) {
    SetSchedule(schedule);
    std::vector<float> sums(kThreads);
    RunGrid({1}, {kThreads}, 0, [&] {
      auto value = static_cast<float>(threadIdx.x);
      for (int mask = 8; mask >= 1; mask /= 2) value += __shfl_xor_sync(~0u, value, mask, 16);
      sums[threadIdx.x] = value;
    });
    for (int t = 0; t < kThreads; ++t) {
      const int first = t / 16 * 16;
      EXPECT_EQ(sums[t], static_cast<float>(16 * first + 120)) << t;
    }
  }
  SetSchedule(Schedule::kAscending);
}

TEST(EmulatedBlock, EachThreadOfEachBlockRunsOnce) {
  std::vector<int> runs(2 * 3 * 4 * 5);
  RunGrid({2, 3}, {4, 5}, 0, [&] {
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    ++runs[(block * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x];
  });
  EXPECT_EQ(runs, std::vector<int>(runs.size(), 1));
}

TEST(EmulatedBlockDeathTest, ABarrierThatNotAllReachEndsTheProcess) {
  EXPECT_DEATH(RunGrid({1}, {64}, 0,
                       [] {
                         if (threadIdx.x < 40) __syncthreads();
                       }),
               "wait for others");
}

TEST(EmulatedBlockDeathTest, ReadingBeyondABufferEndsTheProcess) {
  auto device = Device::Open(0);
  ASSERT_TRUE(device.ok());
  auto buffer = (*device)->Allocate(64 * sizeof(float));
  ASSERT_TRUE(buffer.ok());
  float* const x = buffer->as<float>();
  EXPECT_DEATH(RunGrid({1}, {128}, 0, [x] { x[threadIdx.x] = 0; }), "");
}

TEST(EmulatedBlockDeathTest, LimitsOfALaunchAreThoseOfADevice) {
  EXPECT_DEATH(RunGrid({1}, {1025}, 0, [] {}), "1 to 1024 threads");
  EXPECT_DEATH(RunGrid({1, 65536}, {1}, 0, [] {}), "65535");
  EXPECT_DEATH(RunGrid({1}, {1}, (48 << 10) + 1, [] {}), "shared memory");
}

}  // namespace
}  // namespace tandem::kernels::cuda::emulate
