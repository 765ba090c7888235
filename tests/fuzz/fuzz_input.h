// What all fuzz targets share: taking an input apart, and what every refusal must look like.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "common/base/status.h"

namespace tandem::fuzz {

inline std::string_view View(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// The text before the first zero byte, which is removed with it from `rest`; all of it if there is none.
inline std::string_view TakePart(std::string_view& rest) {
  const size_t end = rest.find('\0');
  const std::string_view part = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  return part;
}

// A start fault is one line on stderr: something is said, in one line of bearable length, and it is never our
// own fault.
inline void CheckRefusal(const absl::Status& status) {
  TANDEM_CHECK(!status.ok());
  TANDEM_CHECK(!absl::IsInternal(status) && !absl::IsUnknown(status));
  const auto& message = status.message();
  TANDEM_CHECK(!message.empty() && message.size() <= 4096);
  TANDEM_CHECK(std::none_of(message.begin(), message.end(),
                            [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }));
}

}  // namespace tandem::fuzz
