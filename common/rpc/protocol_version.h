// What both ends of our internal streams must agree on, exchanged in their Hello.
#pragma once

#include <cstdint>

namespace tandem::rpc {

// run.proto and speculate.proto: the major must be equal, the minor at least what the reader needs.
inline constexpr uint32_t kProtocolMajor = 1;
inline constexpr uint32_t kProtocolMinor = 0;

// Layout of the Philox counters and order of the sampling filters (common/sampling); must be equal.
inline constexpr uint32_t kSamplingVersion = 1;

}  // namespace tandem::rpc
