// The Run stream over gRPC: admission/verifier_link.h for one verifier's address.
#pragma once

#include <memory>

#include "common/base/option_values.h"
#include "common/rpc/channel.h"
#include "gateway/admission/verifier_link.h"

namespace tandem::gateway {

// Never fails; streams do. Each Connect dials anew, so that a channel's own pauses between attempts do not
// add to the batcher's.
std::unique_ptr<VerifierLink> NewRunLink(const Address& address, const rpc::ChannelOptions& options = {});

}  // namespace tandem::gateway
