// The Run stream over gRPC, with a socket beside it on one machine: admission/verifier_link.h for one
// verifier's address.
#pragma once

#include <memory>

#include "common/base/option_values.h"
#include "common/rpc/channel.h"
#include "gateway/admission/verifier_link.h"

namespace tandem::gateway {

struct RunLinkOptions {
  rpc::ChannelOptions channel;
  bool local_socket = true;  // offered to a verifier of this machine
};

// Never fails; streams do. Each Connect dials anew, so that a channel's own pauses between attempts do not
// add to the batcher's.
std::unique_ptr<VerifierLink> NewRunLink(const Address& address, const RunLinkOptions& options = {});

}  // namespace tandem::gateway
