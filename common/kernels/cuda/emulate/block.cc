#include "common/kernels/cuda/emulate/block.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "common/base/status.h"

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace tandem::kernels::cuda::emulate {
namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kGuardBytes = 4 << 10;

enum class State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  bool made = false;
  jmp_buf context;
  State state = State::kDone;
  int64_t shuffles = 0;  // so far
};

// Leaves one stack and goes on on another. A stack's first entry is ucontext's; from then on jumps do, which
// unlike swapcontext ask nothing of the system.
void Switch(jmp_buf& from, jmp_buf& to) {
  if (_setjmp(from) == 0) _longjmp(to, 1);
}

// A shuffle's values lie in one of two rows by turns: a lane that has gone on to the next shuffle must not
// overwrite what another has still to read.
struct Warp {
  uint32_t values[2][kWarpSize];
};

[[noreturn]] void Fail(const char* what) {
  std::fprintf(stderr, "emulated block (%u, %u, %u), thread (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y,
               blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z, what);
  std::abort();
}

class Emulator {
 public:
  Emulator() : fibers_(kMaxThreads), warps_(kMaxThreads / kWarpSize), shared_(kMaxSharedBytes) {
    const size_t bytes = kMaxThreads * (kStackBytes + kGuardBytes);
    void* const stacks = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TANDEM_CHECK(stacks != MAP_FAILED);
    stacks_ = static_cast<std::byte*>(stacks);
    for (int t = 0; t < kMaxThreads; ++t) {
      TANDEM_CHECK(mprotect(Stack(t), kStackBytes, PROT_READ | PROT_WRITE) == 0);
    }
  }
  ~Emulator() { munmap(stacks_, kMaxThreads * (kStackBytes + kGuardBytes)); }

  void RunBlock(const std::function<void()>& body) {
    body_ = &body;
    num_threads_ = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    std::fill(shared_.begin(), shared_.end(), std::byte{0xff});
    order_.resize(num_threads_);
    Arrange(order_);
    for (int t = 0; t < num_threads_; ++t) Start(t);
    while (Pass()) Release();
  }

  void Wait(State state) {
    Fiber& fiber = fibers_[current_];
    fiber.state = state;
    Switch(fiber.context, scheduler_);
  }

  uint32_t ShuffleXor(uint32_t value, int lane_mask, int width) {
    const int lane = current_ % kWarpSize;
    Warp& warp = warps_[current_ / kWarpSize];
    const int64_t turn = fibers_[current_].shuffles++ % 2;
    warp.values[turn][lane] = value;
    Wait(State::kAtShuffle);
    const int from = lane ^ lane_mask;
    // Beyond its part of the warp a lane gets its own value.
    return from / width == lane / width ? warp.values[turn][from] : value;
  }

  void Arrange(std::vector<int>& order) {
    std::iota(order.begin(), order.end(), 0);
    if (schedule == Schedule::kDescending) std::reverse(order.begin(), order.end());
    if (schedule == Schedule::kScattered) std::shuffle(order.begin(), order.end(), std::mt19937(11));
  }

  std::byte* shared() { return shared_.data(); }

  Schedule schedule = Schedule::kAscending;

 private:
  std::byte* Stack(int thread) { return stacks_ + thread * (kStackBytes + kGuardBytes) + kGuardBytes; }

  static void Enter();

  void Start(int thread) {
    fibers_[thread].state = State::kReady;
    fibers_[thread].shuffles = 0;
  }

  void GoOn(Fiber& fiber) {
    if (fiber.made) return Switch(scheduler_, fiber.context);
    fiber.made = true;
    if (_setjmp(scheduler_) != 0) return;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = Stack(current_);
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, &Enter, 0);
    setcontext(&context);
  }

  // Every thread that can go on does. Returns whether one is left that has not ended.
  bool Pass() {
    bool waiting = false;
    for (const int thread : order_) {
      Fiber& fiber = fibers_[thread];
      if (fiber.state == State::kReady) {
        current_ = thread;
        const auto t = static_cast<unsigned>(thread);
        threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
        GoOn(fiber);
      }
      waiting |= fiber.state != State::kDone;
    }
    return waiting;
  }

  // Lets go on whoever waits for nobody any more.
  void Release() {
    bool released = false;
    for (int first = 0; first < num_threads_; first += kWarpSize) {
      const int end = std::min(first + kWarpSize, num_threads_);
      if (Count(first, end, State::kAtShuffle) < end - first) continue;
      for (int t = first; t < end; ++t) fibers_[t].state = State::kReady;
      released = true;
    }
    if (released) return;
    if (Count(0, num_threads_, State::kAtBarrier) < num_threads_) {
      Fail("threads wait for others that have ended or wait elsewhere");
    }
    for (int t = 0; t < num_threads_; ++t) fibers_[t].state = State::kReady;
  }

  int Count(int first, int end, State state) const {
    return static_cast<int>(std::count_if(fibers_.begin() + first, fibers_.begin() + end,
                                          [state](const Fiber& fiber) { return fiber.state == state; }));
  }

  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  std::vector<std::byte> shared_;
  std::byte* stacks_ = nullptr;
  jmp_buf scheduler_;
  const std::function<void()>* body_ = nullptr;
  std::vector<int> order_;
  int num_threads_ = 0, current_ = 0;
};

Emulator& ThisThreads() {
  static thread_local Emulator emulator;
  return emulator;
}

// A fiber serves one thread number of all blocks to come.
void Emulator::Enter() {
  Emulator& emulator = ThisThreads();
  for (;;) {
    (*emulator.body_)();
    emulator.Wait(State::kDone);
  }
}

}  // namespace

void SetSchedule(Schedule schedule) { ThisThreads().schedule = schedule; }

void RunGrid(dim3 grid, dim3 block, int64_t shared_bytes, const std::function<void()>& body) {
  Emulator& emulator = ThisThreads();
  blockDim = block;
  gridDim = grid;
  const int64_t threads = int64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > kMaxThreads) Fail("a block has 1 to 1024 threads");
  if (shared_bytes > kMaxSharedBytes) Fail("more shared memory than a kernel has without asking");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 0xffffu || grid.z > 0xffffu)
    Fail("a grid has 1 to 2^31 - 1, 65535 and 65535 blocks");
  std::vector<int> blocks(int64_t{grid.x} * grid.y * grid.z);
  emulator.Arrange(blocks);
  for (const int index : blocks) {
    const auto b = static_cast<unsigned>(index);
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
    emulator.RunBlock(body);
  }
}

void Barrier() { ThisThreads().Wait(State::kAtBarrier); }
std::byte* SharedMemory() { return ThisThreads().shared(); }
uint32_t ShuffleXor(uint32_t value, int lane_mask, int width) {
  return ThisThreads().ShuffleXor(value, lane_mask, width);
}

}  // namespace tandem::kernels::cuda::emulate
