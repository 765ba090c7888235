// How large the KV pool is.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/models/model.h"

namespace tandem::verifier {

// MemAvailable of /proc/meminfo, in bytes: what the system can give without swapping. kUnavailable or
// kInvalidArgument naming the file if it cannot be read or has no such line.
absl::StatusOr<int64_t> AvailableMemoryBytes(const std::string& meminfo_path = "/proc/meminfo");

struct KvDemand {
  int64_t kv_bytes = 0;  // as configured; 0 = the default
  int64_t block_bytes = 0;
  int64_t max_sequences = 0;
  int64_t context = 0;          // tokens
  double default_share = 0.25;  // of what is available
};

// What a pool of default size may take of: the free memory of the model's device, most of it, for nothing
// comes after the pool; else the host's. `share` is for KvDemand::default_share.
struct KvMemoryOffer {
  int64_t available_bytes = 0;
  double share = 0.25;
};
absl::StatusOr<KvMemoryOffer> OfferKvMemory(const models::Model& model);

// Blocks for the pool: kv_bytes / block_bytes; by default a share of `available_bytes`, at most what
// max_sequences of full context need. kResourceExhausted with the sizes if that is fewer than kMinKvBlocks.
inline constexpr int64_t kMinKvBlocks = 4;
absl::StatusOr<int32_t> NumKvBlocks(const KvDemand& demand, int64_t available_bytes);

}  // namespace tandem::verifier
