// Reads little-endian values off a span of untrusted bytes and never past its end.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/base/status.h"

namespace tandem::formats {

// Views borrow from the span. `what` names the value in errors (kInvalidArgument).
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    static_assert(std::endian::native == std::endian::little);
    if (remaining() < sizeof(T)) return Ends(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::span<const std::byte>> ReadBytes(uint64_t size, std::string_view what) {
    if (size > remaining()) return Ends(what, size);
    const auto view = bytes_.subspan(position_, size);
    position_ += size;
    return view;
  }

  // A count of things that take at least `min_bytes` (> 0) each, checked against what is left: safe to
  // reserve for.
  absl::StatusOr<uint64_t> ReadCount(uint64_t min_bytes, std::string_view what) {
    ASSIGN_OR_RETURN(const uint64_t count, Read<uint64_t>(what));
    if (count > remaining() / min_bytes) {
      return InvalidArgument("{} is {}, but only {} bytes are left in the file", what, count, remaining());
    }
    return count;
  }

  // A 64-bit length and that many bytes.
  absl::StatusOr<std::string_view> ReadString(std::string_view what) {
    ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>(what));
    ASSIGN_OR_RETURN(const auto bytes, ReadBytes(size, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  absl::Status Ends(std::string_view what, uint64_t wanted) const {
    return InvalidArgument("ends inside {}: {} bytes wanted at byte {}, {} left", what, wanted, position_,
                           remaining());
  }

  const std::span<const std::byte> bytes_;
  size_t position_ = 0;
};

}  // namespace tandem::formats
