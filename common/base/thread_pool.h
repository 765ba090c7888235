// A few threads that run the tiles of one parallel loop at a time.
//
//   ThreadPool pool(2);                       // the caller counts as one
//   { ThreadPool::Active active(pool);        // a step begins: helpers stay awake between its loops
//     pool.ForEachTile(num_tiles, [&](int tile) { ... });
//   }                                         // the step ends: helpers park and use no CPU
//
// Tiles are claimed dynamically, so which thread runs a tile is left to chance; results must not depend on
// it. The caller takes part and never waits for a helper that has not claimed a tile: a helper that the
// system does not schedule costs speed only.
//
// ForEachTile and Active: one calling thread at a time. No allocation in ForEachTile.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace tandem {

class ThreadPool {
 public:
  // `num_threads` >= 1, the calling thread included.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls f(tile) once for each tile in [0, num_tiles), and returns when all calls have returned.
  template <typename F>
  void ForEachTile(int num_tiles, const F& f) {
    Run(
        num_tiles, [](const void* context, int tile) { (*static_cast<const F*>(context))(tile); }, &f);
  }

  // While it lives, helpers poll for the next loop for up to ~100 us before they park. Waking a parked thread
  // costs 50-100 us (measured between the cores of a 2-core VM), far more than most loops of a step.
  class Active {
   public:
    explicit Active(ThreadPool& pool);
    ~Active();
    Active(const Active&) = delete;

   private:
    ThreadPool& pool_;
  };

 private:
  using TileFunction = void (*)(const void* context, int tile);

  void Run(int num_tiles, TileFunction function, const void* context);
  void RunTiles(uint64_t epoch);
  void HelperLoop();
  bool WaitForWork(uint64_t seen_epoch);

  std::vector<std::thread> helpers_;

  // The current loop. `claim_` packs (epoch << 32 | next tile), so that a late helper cannot claim a tile of
  // a loop whose function it has not read. The other fields are written before the epoch that publishes them.
  std::atomic<uint64_t> claim_{0};
  std::atomic<TileFunction> function_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<int> num_tiles_{0};
  std::atomic<int> num_done_{0};

  std::atomic<bool> active_{false};
  std::atomic<int> num_parked_{0};

  // std::mutex, since the thread sanitizer does not see into the distribution's build of absl::Mutex.
  std::mutex mu_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mu_
};

}  // namespace tandem
