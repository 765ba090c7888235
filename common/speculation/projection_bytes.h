// A projection as it travels: f32 little-endian, fc [width, taps * hidden_size], then norm [width] if any.
//
//   drafter:   ProjectionHash(p), ProjectionNumBytes(p) into its hello; CopyProjectionBytes chunk by chunk
//   verifier:  ProjectionAssembler assembler(hello, hidden_size) after CheckProjectionShape;
//              Add(offset, data) per chunk until complete(); Finish()
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/sha256.h"
#include "common/speculation/messages.h"

namespace tandem::speculation {

inline constexpr int64_t kProjectionChunkBytes = int64_t{1} << 20;
inline constexpr int64_t kMaxProjectionBytes = int64_t{1} << 31;

int64_t ProjectionNumBytes(const Projection& projection);
std::string ProjectionHash(const Projection& projection);  // SHA-256, hex
// Bytes [offset, offset + out.size()); requires that they exist.
void CopyProjectionBytes(const Projection& projection, int64_t offset, std::span<std::byte> out);

// Whether the hello's projection_bytes are what its width, taps and norm make with this hidden size.
// kInvalidArgument otherwise.
absl::Status CheckProjectionShape(const DrafterHello& hello, int32_t hidden_size);

// Puts chunks from a peer together. Memory grows with what has come, not with what was announced.
class ProjectionAssembler {
 public:
  // Requires CheckProjectionShape.
  explicit ProjectionAssembler(const DrafterHello& hello);

  bool complete() const { return received_ == total_; }
  // kInvalidArgument naming the field: a chunk out of order, empty, larger than kProjectionChunkBytes or
  // beyond the end.
  absl::Status Add(uint64_t offset, std::span<const std::byte> data);
  // Requires complete(). kInvalidArgument if the hash differs or a value is not finite.
  absl::StatusOr<Projection> Finish();

 private:
  const std::string expected_hash_;
  const int64_t total_;
  int64_t received_ = 0;
  int64_t num_fc_ = 0, num_norm_ = 0;  // values
  std::vector<float> values_;
  Sha256 hash_;
  Projection projection_;
};

}  // namespace tandem::speculation
