// A Speculate stream over gRPC: engine/drafter_link.h for one drafter's address.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "common/base/option_values.h"
#include "common/rpc/channel.h"
#include "verifier/engine/drafter_link.h"

namespace tandem::verifier {

struct SpeculateLinkOptions {
  rpc::ChannelOptions channel;
  // For hello, projection and ring together: a drafter that takes longer is away.
  absl::Duration open_timeout = absl::Seconds(30);
};

// Never fails; streams do. Thread-safe beyond what DrafterLink asks for: Connect, Close and the rest may come
// from different threads. Each Connect dials anew.
std::unique_ptr<DrafterLink> NewSpeculateLink(const Address& address,
                                              const SpeculateLinkOptions& options = {});

}  // namespace tandem::verifier
