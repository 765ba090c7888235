// Values that flags, environment and configuration files write as text: sizes, durations, addresses.
//
// Errors are kInvalidArgument and say what was expected and what was found; the caller adds the option's
// name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tandem {

// "4096", "64KiB", "1.5GiB", "2GB": bytes, with B, KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (of
// 1024).
absl::StatusOr<int64_t> ParseBytes(std::string_view text);

// "250ms", "30s", "1h30m": not negative, finite, with a unit ("0" needs none).
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);

// Decimal integers only, the whole text.
absl::StatusOr<int64_t> ParseInteger(std::string_view text);
// Finite decimal numbers only, the whole text.
absl::StatusOr<double> ParseNumber(std::string_view text);
// on, off, true, false, yes, no, 1, 0.
absl::StatusOr<bool> ParseSwitch(std::string_view text);

// Where a server listens or a client connects.
struct Address {
  std::string host;       // name, IPv4 or IPv6 without brackets; empty for a Unix socket
  uint16_t port = 0;      // 0: any free port, for servers only
  std::string unix_path;  // of a Unix socket; empty for TCP

  bool is_unix() const { return !unix_path.empty(); }
  // Whether only this machine reaches it: a Unix socket, 127.0.0.0/8, ::1 or "localhost".
  bool is_local() const;
  // "127.0.0.1:8011", "[::1]:8011" or "unix:/run/tandem.sock"; ParseAddress reads it back.
  std::string ToString() const;

  bool operator==(const Address&) const = default;
};

// "HOST:PORT", "[IPV6]:PORT" or "unix:PATH" (at most 107 bytes, what a socket address holds).
absl::StatusOr<Address> ParseAddress(std::string_view text);

}  // namespace tandem
