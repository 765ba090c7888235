// What this machine can do at most, to compare a kernel's bytes/s and operations/s with. For benchmarks: it
// keeps all threads of the pool busy meanwhile.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/thread_pool.h"

namespace tandem::kernels {

// Bytes/s of reading a buffer of `bytes` from begin to end again and again for about `time`, the median pass:
// whole vectors, all threads of the pool, huge pages where the system has them. A buffer that fits the caches
// is read from there, so ask with the size of the weights. kResourceExhausted if the buffer cannot be had.
absl::StatusOr<double> MeasureReadBandwidth(int64_t bytes, absl::Duration time, ThreadPool& pool);

// Operations/s of fused multiply-adds of f32 in registers (one counts as two), all threads of the pool, the
// best of several rounds in about `time`.
double MeasureFmaRate(absl::Duration time, ThreadPool& pool);

}  // namespace tandem::kernels
