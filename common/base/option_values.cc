#include "common/base/option_values.h"

#include <sys/un.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/ascii.h"
#include "common/base/status.h"

namespace tandem {
namespace {

constexpr size_t kMaxUnixPath = sizeof(sockaddr_un::sun_path) - 1;

struct Unit {
  std::string_view suffix;
  double bytes;
};
constexpr std::array<Unit, 10> kByteUnits = {{{"", 1},
                                              {"B", 1},
                                              {"KB", 1e3},
                                              {"MB", 1e6},
                                              {"GB", 1e9},
                                              {"TB", 1e12},
                                              {"KiB", 1024.0},
                                              {"MiB", 1024.0 * 1024},
                                              {"GiB", 1024.0 * 1024 * 1024},
                                              {"TiB", 1024.0 * 1024 * 1024 * 1024}}};

bool IsHostCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_';
}

absl::StatusOr<uint16_t> ParsePort(std::string_view text) {
  const absl::StatusOr<int64_t> port = ParseInteger(text);
  if (!port.ok() || *port < 0 || *port > 65535)
    return InvalidArgument("port must be 0..65535, got '{}'", text);
  return static_cast<uint16_t>(*port);
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(std::string_view text) {
  const size_t number_size = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::string_view number = text.substr(0, number_size);
  const std::string_view suffix = text.substr(number_size);
  for (const Unit& unit : kByteUnits) {
    if (suffix != unit.suffix || number.empty()) continue;
    // Whole numbers exactly; only fractions go through a double.
    const absl::StatusOr<int64_t> whole = ParseInteger(number);
    const int64_t factor = static_cast<int64_t>(unit.bytes);
    int64_t bytes = 0;
    if (whole.ok() && !__builtin_mul_overflow(*whole, factor, &bytes)) return bytes;
    const absl::StatusOr<double> fraction = ParseNumber(number);
    if (fraction.ok() && *fraction * unit.bytes < 9.2e18) return static_cast<int64_t>(*fraction * unit.bytes);
    break;
  }
  return InvalidArgument("expected a size such as 4096, 512MiB or 2GB, got '{}'", text);
}

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(absl::string_view(text.data(), text.size()), &duration) ||
      duration < absl::ZeroDuration() || duration == absl::InfiniteDuration()) {
    return InvalidArgument("expected a duration such as 250ms, 30s or 1h30m, got '{}'", text);
  }
  return duration;
}

absl::StatusOr<int64_t> ParseInteger(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
    return InvalidArgument("expected an integer, got '{}'", text);
  }
  return value;
}

absl::StatusOr<double> ParseNumber(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return InvalidArgument("expected a finite number, got '{}'", text);
  }
  return value;
}

absl::StatusOr<bool> ParseSwitch(std::string_view text) {
  if (text == "on" || text == "true" || text == "yes" || text == "1") return true;
  if (text == "off" || text == "false" || text == "no" || text == "0") return false;
  return InvalidArgument("expected on or off, got '{}'", text);
}

bool Address::is_local() const {
  if (is_unix()) return true;
  if (host == "localhost" || host == "::1") return true;
  // Only a literal address: a name such as 127.example.org may point anywhere.
  return host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string::npos;
}

std::string Address::ToString() const {
  if (is_unix()) return "unix:" + unix_path;
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port)
                                             : fmt::format("[{}]:{}", host, port);
}

absl::StatusOr<Address> ParseAddress(std::string_view text) {
  Address address;
  if (text.starts_with("unix:")) {
    address.unix_path = std::string(text.substr(5));
    if (address.unix_path.empty() || address.unix_path.size() > kMaxUnixPath ||
        address.unix_path.find('\0') != std::string::npos) {
      return InvalidArgument("the path after unix: must have 1..{} bytes, got {}", kMaxUnixPath,
                             address.unix_path.size());
    }
    return address;
  }
  const size_t colon = text.rfind(':');
  std::string_view host = text.substr(0, std::min(colon, text.size()));
  bool well_formed = colon != std::string_view::npos && !host.empty() && host.size() <= 253;
  if (well_formed && host.front() == '[') {
    well_formed = host.size() > 2 && host.back() == ']' &&
                  host.substr(1, host.size() - 2).find_first_not_of("0123456789abcdefABCDEF:.%") ==
                      std::string_view::npos;
    if (well_formed) host = host.substr(1, host.size() - 2);
  } else if (well_formed) {
    well_formed = std::all_of(host.begin(), host.end(), IsHostCharacter);
  }
  if (!well_formed) return InvalidArgument("expected HOST:PORT, [IPV6]:PORT or unix:PATH, got '{}'", text);
  ASSIGN_OR_RETURN(address.port, ParsePort(text.substr(colon + 1)));
  address.host = std::string(host);
  return address;
}

}  // namespace tandem
