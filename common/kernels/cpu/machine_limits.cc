#include "common/kernels/machine_limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "common/base/status.h"
#include "common/kernels/cpu/targets.h"
//
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kernels/cpu/machine_limits.cc"
#include "hwy/foreach_target.h"
//
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

constexpr int kSums = 12;

// `words` is a multiple of 64.
uint64_t ReadImpl(const uint64_t* p, int64_t words) {
  const hn::ScalableTag<uint64_t> d;
  const int64_t lanes = hn::Lanes(d);
  auto a = hn::Zero(d), b = a, c = a, e = a;
  for (int64_t i = 0; i < words; i += 4 * lanes) {
    a = hn::Add(a, hn::Load(d, p + i));
    b = hn::Add(b, hn::Load(d, p + i + lanes));
    c = hn::Add(c, hn::Load(d, p + i + 2 * lanes));
    e = hn::Add(e, hn::Load(d, p + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(a, b), hn::Add(c, e))));
}

// Returns the operations done. Twelve sums keep two pipes of a latency of four or five busy; they begin with
// different values, else a compiler finds that they are one.
int64_t FmaImpl(int64_t rounds, float* sums) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, 0.5f), y = hn::Set(d, 1.0f);
  auto s0 = hn::Set(d, sums[0]), s1 = hn::Set(d, sums[1]), s2 = hn::Set(d, sums[2]), s3 = hn::Set(d, sums[3]);
  auto s4 = hn::Set(d, sums[4]), s5 = hn::Set(d, sums[5]), s6 = hn::Set(d, sums[6]), s7 = hn::Set(d, sums[7]);
  auto s8 = hn::Set(d, sums[8]), s9 = hn::Set(d, sums[9]), s10 = hn::Set(d, sums[10]),
       s11 = hn::Set(d, sums[11]);
  for (int64_t i = 0; i < rounds; ++i) {
    s0 = hn::MulAdd(s0, x, y);
    s1 = hn::MulAdd(s1, x, y);
    s2 = hn::MulAdd(s2, x, y);
    s3 = hn::MulAdd(s3, x, y);
    s4 = hn::MulAdd(s4, x, y);
    s5 = hn::MulAdd(s5, x, y);
    s6 = hn::MulAdd(s6, x, y);
    s7 = hn::MulAdd(s7, x, y);
    s8 = hn::MulAdd(s8, x, y);
    s9 = hn::MulAdd(s9, x, y);
    s10 = hn::MulAdd(s10, x, y);
    s11 = hn::MulAdd(s11, x, y);
  }
  const auto low = hn::Add(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)), hn::Add(s4, s5));
  const auto high = hn::Add(hn::Add(hn::Add(s6, s7), hn::Add(s8, s9)), hn::Add(s10, s11));
  sums[0] = hn::GetLane(hn::SumOfLanes(d, hn::Add(low, high)));
  return rounds * kSums * 2 * static_cast<int64_t>(hn::Lanes(d));
}

}  // namespace
}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {

HWY_EXPORT(ReadImpl);
HWY_EXPORT(FmaImpl);

namespace {

constexpr int64_t kPage = 2 << 20, kTileBytes = 128 << 10;
constexpr int64_t kFmaRounds = 1'000'000;

using SteadyClock = std::chrono::steady_clock;

double SecondsSince(SteadyClock::time_point begin) {
  return std::chrono::duration<double>(SteadyClock::now() - begin).count();
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

}  // namespace

absl::StatusOr<double> MeasureReadBandwidth(int64_t bytes, absl::Duration time, ThreadPool& pool) {
  const int64_t size = (std::max(bytes, kTileBytes) + kPage - 1) / kPage * kPage;
  const std::unique_ptr<void, Free> buffer(std::aligned_alloc(kPage, size));
  if (buffer == nullptr) return ResourceExhausted("no memory for a buffer of {} bytes", size);
  madvise(buffer.get(), size, MADV_HUGEPAGE);  // where it is refused, small pages do
  std::memset(buffer.get(), 1, size);
  const auto num_tiles = static_cast<int>((bytes + kTileBytes - 1) / kTileBytes);
  const auto* const words = static_cast<const uint64_t*>(buffer.get());
  std::atomic<uint64_t> sink{0};
  const ThreadPool::Active active(pool);
  std::vector<double> seconds;
  const auto begin = SteadyClock::now();
  do {
    const auto pass = SteadyClock::now();
    pool.ForEachTile(num_tiles, [&](int tile) {
      sink += HWY_DYNAMIC_DISPATCH(ReadImpl)(words + tile * (kTileBytes / 8), kTileBytes / 8);
    });
    seconds.push_back(SecondsSince(pass));
  } while (SecondsSince(begin) < absl::ToDoubleSeconds(time));
  const auto median = seconds.begin() + static_cast<ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), median, seconds.end());
  return static_cast<double>(num_tiles * kTileBytes) / *median;
}

double MeasureFmaRate(absl::Duration time, ThreadPool& pool) {
  const ThreadPool::Active active(pool);
  double best = 0;
  const auto begin = SteadyClock::now();
  do {
    std::atomic<int64_t> operations{0};
    const auto round = SteadyClock::now();
    pool.ForEachTile(pool.num_threads() * 4, [&](int) {
      float sums[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
      operations += HWY_DYNAMIC_DISPATCH(FmaImpl)(kFmaRounds, sums);
      TANDEM_CHECK(sums[0] > 0);
    });
    best = std::max(best, static_cast<double>(operations.load()) / SecondsSince(round));
  } while (SecondsSince(begin) < absl::ToDoubleSeconds(time));
  return best;
}

}  // namespace tandem::kernels
#endif  // HWY_ONCE
