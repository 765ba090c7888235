#include "common/base/thread_pool.h"

#include <pthread.h>

#include "common/base/status.h"

namespace tandem {
namespace {

constexpr uint64_t kTileMask = 0xffffffffu;
constexpr int kMaxPolls = 4000;  // about 100 us at 25 ns a pause

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

uint64_t EpochOf(uint64_t claim) { return claim >> 32; }

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  TANDEM_CHECK(num_threads >= 1);
  for (int i = 1; i < num_threads; ++i) helpers_.emplace_back([this] { HelperLoop(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mu_);
    stop_ = true;
    wake_.notify_all();
  }
  for (std::thread& helper : helpers_) helper.join();
}

ThreadPool::Active::Active(ThreadPool& pool) : pool_(pool) { pool_.active_.store(true); }
ThreadPool::Active::~Active() { pool_.active_.store(false); }

void ThreadPool::Run(int num_tiles, TileFunction function, const void* context) {
  if (num_tiles <= 0) return;
  if (num_tiles == 1 || helpers_.empty()) {
    for (int tile = 0; tile < num_tiles; ++tile) function(context, tile);
    return;
  }
  // Close the previous loop first: a helper still looking at it may already read the new fields, but then its
  // claim fails (the field's release and its acquire order the closing before the claim).
  const uint64_t previous = EpochOf(claim_.load(std::memory_order_relaxed));
  claim_.store(previous << 32 | kTileMask);
  num_done_.store(0, std::memory_order_relaxed);
  function_.store(function, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  num_tiles_.store(num_tiles, std::memory_order_release);
  const uint64_t epoch = (previous + 1) & kTileMask;
  // seq_cst, as is the helper's num_parked_ increment before its last look: one of the two sees the other.
  claim_.store(epoch << 32);
  if (num_parked_.load() > 0) {
    const std::lock_guard lock(mu_);
    wake_.notify_all();
  }
  RunTiles(epoch);
  while (num_done_.load(std::memory_order_acquire) != num_tiles) Pause();
}

void ThreadPool::RunTiles(uint64_t epoch) {
  uint64_t claim = claim_.load(std::memory_order_acquire);
  while (EpochOf(claim) == epoch) {
    const TileFunction function = function_.load(std::memory_order_acquire);
    const void* const context = context_.load(std::memory_order_acquire);
    const uint64_t tile = claim & kTileMask;
    if (tile >= static_cast<uint64_t>(num_tiles_.load(std::memory_order_acquire))) return;
    // Succeeds only while the epoch is unchanged, hence what was read above belongs to this loop.
    if (!claim_.compare_exchange_weak(claim, claim + 1, std::memory_order_acq_rel)) continue;
    function(context, static_cast<int>(tile));
    num_done_.fetch_add(1, std::memory_order_release);
    claim = claim_.load(std::memory_order_acquire);
  }
}

bool ThreadPool::WaitForWork(uint64_t seen_epoch) {
  const auto has_work = [&] { return EpochOf(claim_.load()) != seen_epoch; };
  for (int poll = 0; poll < kMaxPolls && active_.load(std::memory_order_relaxed); ++poll) {
    if (has_work()) return true;
    Pause();
  }
  std::unique_lock lock(mu_);
  ++num_parked_;
  while (!stop_ && !has_work()) wake_.wait(lock);
  --num_parked_;
  return !stop_;
}

void ThreadPool::HelperLoop() {
  pthread_setname_np(pthread_self(), "tandem-pool");  // so that its CPU time can be told from others'
  uint64_t epoch = 0;
  while (WaitForWork(epoch)) {
    epoch = EpochOf(claim_.load(std::memory_order_acquire));
    RunTiles(epoch);
  }
}

}  // namespace tandem
