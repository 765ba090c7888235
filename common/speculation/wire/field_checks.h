// Checks of single fields of a peer's message; errors are kInvalidArgument and name the field.
#pragma once

#include <google/protobuf/repeated_field.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "common/base/status.h"
#include "common/rpc/grpc_status.h"

namespace tandem::speculation {

inline constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
inline constexpr int64_t kUint32Max = std::numeric_limits<uint32_t>::max();

inline absl::Status CheckRange(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return InvalidArgument("{} must be in {}..{}, got {}", field, min, max, value);
}

// Numbers that count up for a stream's whole life.
inline absl::Status CheckCounter(const char* field, uint64_t value) {
  if (value < uint64_t{1} << 62) return absl::OkStatus();
  return InvalidArgument("{} must be below 2^62, got {}", field, value);
}

inline absl::Status CheckTokens(const char* field, const google::protobuf::RepeatedField<int32_t>& ids,
                                int32_t vocab_size) {
  const auto bad =
      std::find_if(ids.begin(), ids.end(), [&](int32_t id) { return id < 0 || id >= vocab_size; });
  if (bad == ids.end()) return absl::OkStatus();
  return InvalidArgument("{}[{}] must be in 0..{}, got {}", field, bad - ids.begin(), vocab_size - 1, *bad);
}

inline absl::Status CheckText(const char* field, const std::string& text, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return InvalidArgument("{} must have at most {} bytes, got {}", field, max_bytes, text.size());
  }
  const bool printable =
      std::all_of(text.begin(), text.end(), [](unsigned char c) { return absl::ascii_isprint(c); });
  if (printable) return absl::OkStatus();
  return InvalidArgument("{} must be printable ASCII, got {}", field, rpc::QuoteForMessage(text));
}

inline absl::Status CheckHex(const char* field, const std::string& text, size_t digits) {
  const bool hex = text.size() == digits && std::all_of(text.begin(), text.end(), [](unsigned char c) {
                     return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
                   });
  if (hex) return absl::OkStatus();
  return InvalidArgument("{} must be {} hex digits, got {}", field, digits, rpc::QuoteForMessage(text));
}

}  // namespace tandem::speculation
