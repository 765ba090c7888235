#include "common/speculation/projection_bytes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/base/status.h"

namespace tandem::speculation {
namespace {

static_assert(std::endian::native == std::endian::little, "projections travel as they lie in memory");

int64_t NumFc(const DrafterHello& hello, int32_t hidden_size) {
  return int64_t{hello.row_width} * static_cast<int64_t>(hello.taps.size()) * hidden_size;
}

}  // namespace

int64_t ProjectionNumBytes(const Projection& projection) {
  return static_cast<int64_t>((projection.fc.size() + projection.norm.size()) * sizeof(float));
}

std::string ProjectionHash(const Projection& projection) {
  Sha256 hash;
  hash.Update(std::as_bytes(std::span(projection.fc)));
  hash.Update(std::as_bytes(std::span(projection.norm)));
  return hash.Finish();
}

void CopyProjectionBytes(const Projection& projection, int64_t offset, std::span<std::byte> out) {
  TANDEM_CHECK(offset >= 0 && offset + static_cast<int64_t>(out.size()) <= ProjectionNumBytes(projection));
  const auto fc = std::as_bytes(std::span(projection.fc));
  const auto norm = std::as_bytes(std::span(projection.norm));
  const int64_t fc_bytes = static_cast<int64_t>(fc.size());
  const int64_t from_fc = std::clamp<int64_t>(fc_bytes - offset, 0, static_cast<int64_t>(out.size()));
  if (from_fc > 0) std::ranges::copy(fc.subspan(offset, from_fc), out.begin());
  const int64_t from_norm = static_cast<int64_t>(out.size()) - from_fc;
  if (from_norm > 0)
    std::ranges::copy(norm.subspan(offset + from_fc - fc_bytes, from_norm), out.begin() + from_fc);
}

absl::Status CheckProjectionShape(const DrafterHello& hello, int32_t hidden_size) {
  const int64_t values = NumFc(hello, hidden_size) + (hello.has_norm ? hello.row_width : 0);
  // No overflow: width and hidden size have been read as at most 2^20, taps as at most 256 (ReadHello).
  if (values > kMaxProjectionBytes / static_cast<int64_t>(sizeof(float))) {
    return InvalidArgument("hello.projection_bytes: {} values of a projection, the limit is {} bytes", values,
                           kMaxProjectionBytes);
  }
  if (hello.projection_bytes != values * static_cast<int64_t>(sizeof(float))) {
    return InvalidArgument("hello.projection_bytes must be {} ({} x {} taps x {}{}), got {}",
                           values * static_cast<int64_t>(sizeof(float)), hello.row_width, hello.taps.size(),
                           hidden_size, hello.has_norm ? " and a norm" : "", hello.projection_bytes);
  }
  return absl::OkStatus();
}

ProjectionAssembler::ProjectionAssembler(const DrafterHello& hello)
    : expected_hash_(hello.projection_hash), total_(hello.projection_bytes) {
  num_norm_ = hello.has_norm ? hello.row_width : 0;
  num_fc_ = total_ / static_cast<int64_t>(sizeof(float)) - num_norm_;
  TANDEM_CHECK(num_fc_ >= 0);
  projection_.width = hello.row_width;
  projection_.taps = hello.taps;
  projection_.norm_eps = hello.norm_eps;
}

absl::Status ProjectionAssembler::Add(uint64_t offset, std::span<const std::byte> data) {
  if (offset != static_cast<uint64_t>(received_))
    return InvalidArgument("projection.offset must be {}, got {}", received_, offset);
  const int64_t size = static_cast<int64_t>(data.size());
  if (size == 0 || size > kProjectionChunkBytes || size % sizeof(float) != 0 || size > total_ - received_) {
    return InvalidArgument("projection.data must be 1..{} bytes, whole floats, at most {} more; got {}",
                           kProjectionChunkBytes, total_ - received_, size);
  }
  const size_t at = values_.size();
  values_.resize(at + data.size() / sizeof(float));
  std::memcpy(values_.data() + at, data.data(), data.size());
  hash_.Update(data);
  received_ += size;
  return absl::OkStatus();
}

absl::StatusOr<Projection> ProjectionAssembler::Finish() {
  TANDEM_CHECK(complete());
  const std::string hash = hash_.Finish();
  if (hash != expected_hash_) {
    return InvalidArgument("projection has the hash {}, the hello named {}", hash, expected_hash_);
  }
  const auto bad = std::ranges::find_if(values_, [](float value) { return !std::isfinite(value); });
  if (bad != values_.end())
    return InvalidArgument("projection value {} is not finite", bad - values_.begin());
  projection_.norm.assign(values_.begin() + num_fc_, values_.end());
  values_.resize(num_fc_);
  projection_.fc = std::move(values_);
  return std::move(projection_);
}

}  // namespace tandem::speculation
