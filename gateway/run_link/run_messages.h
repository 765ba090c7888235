// run.proto's messages from and to the core's plain structs. Nothing is checked here but what a struct cannot
// hold; the core checks every number before it uses it (admission/peer_checks.h).
#pragma once

#include <cstdint>

#include "gateway/admission/verifier_link.h"
#include "tandem/v1/run.pb.h"

namespace tandem::gateway {

void FillHello(const GatewayHello& hello, v1::GatewayHello& out);
void FillPlan(const Plan& plan, uint64_t number, v1::Plan& out);

VerifierHello ReadHello(const v1::VerifierHello& message);
Report ReadReport(const v1::Report& message);

}  // namespace tandem::gateway
