// run.proto's messages to and from the link's plain structs; numbers are checked by the batcher, not here.
#pragma once

#include "gateway/admission/verifier_link.h"
#include "tandem/v1/run.pb.h"

namespace tandem::gateway {

void FillHello(const GatewayHello& hello, v1::GatewayHello& out);
void FillPlan(const Plan& plan, uint64_t number, v1::Plan& out);
VerifierHello ToHello(const v1::VerifierHello& message);
Report ToReport(v1::Report&& message);

}  // namespace tandem::gateway
