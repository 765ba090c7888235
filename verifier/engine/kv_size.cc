#include "verifier/engine/kv_size.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/kernels/kv_cache.h"

namespace tandem::verifier {
namespace {

constexpr double kDeviceShare = 0.9;  // the rest is for block tables, which grow, and for the libraries' own

}  // namespace

absl::StatusOr<int64_t> AvailableMemoryBytes(const std::string& meminfo_path) {
  std::ifstream file(meminfo_path);
  if (!file) return Unavailable("{}: cannot be read", meminfo_path);
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.empty() || words[0] != "MemAvailable:") continue;
    int64_t kib = 0;
    if (words.size() != 3 || words[2] != "kB" || !absl::SimpleAtoi(words[1], &kib) || kib < 0 ||
        kib > std::numeric_limits<int64_t>::max() / 1024) {
      return InvalidArgument("{}: cannot be understood: {}", meminfo_path, line);
    }
    return kib * 1024;
  }
  return InvalidArgument("{}: has no line MemAvailable", meminfo_path);
}

absl::StatusOr<KvMemoryOffer> OfferKvMemory(const models::Model& model) {
  if (const std::optional<int64_t> free = model.FreeDeviceBytes()) return KvMemoryOffer{*free, kDeviceShare};
  KvMemoryOffer offer;
  ASSIGN_OR_RETURN(offer.available_bytes, AvailableMemoryBytes());
  return offer;
}

absl::StatusOr<int32_t> NumKvBlocks(const KvDemand& demand, int64_t available_bytes) {
  TANDEM_CHECK(demand.block_bytes > 0 && demand.max_sequences > 0 && demand.context > 0);
  int64_t blocks = 0;
  const auto default_bytes =
      static_cast<int64_t>(static_cast<double>(available_bytes) * demand.default_share);
  if (demand.kv_bytes > 0) {
    blocks = demand.kv_bytes / demand.block_bytes;
  } else {
    const int64_t context_blocks =
        (demand.context + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
    blocks = std::min(default_bytes / demand.block_bytes, (context_blocks + 1) * demand.max_sequences);
  }
  blocks = std::min<int64_t>(blocks, std::numeric_limits<int32_t>::max() / kernels::kKvBlockPositions);
  if (blocks < kMinKvBlocks) {
    return ResourceExhausted("kv-bytes: {} bytes hold {} blocks of {} bytes, at least {} are needed",
                             demand.kv_bytes > 0 ? demand.kv_bytes : default_bytes, blocks,
                             demand.block_bytes, kMinKvBlocks);
  }
  return static_cast<int32_t>(blocks);
}

}  // namespace tandem::verifier
