// A Run stream inside one process: a gateway's batcher on one side, a verifier's step loop on the other. The
// messages are the protocol's, checked as if they had come from afar, but they cross as objects on the
// calling threads: nothing is serialised, written or read.
#pragma once

#include <memory>

#include "gateway/admission/verifier_link.h"
#include "verifier/engine/step_loop.h"
#include "verifier/service/run_hello.h"

namespace tandem::cli {

// Borrows the loop, which must outlive the link. The listener is called on the step loop's thread and on that
// of Connect, SendPlan and Close, under a lock; so it must only post.
std::unique_ptr<gateway::VerifierLink> NewLocalVerifierLink(verifier::StepLoop& loop,
                                                            const verifier::RunIdentity& identity);

}  // namespace tandem::cli
