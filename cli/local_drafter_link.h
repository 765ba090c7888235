// A Speculate stream inside one process: a verifier's step loop on one side, a drafter's loop on the other.
// Rows and messages cross as objects on the calling threads.
#pragma once

#include <memory>

#include "drafter/engine/draft_loop.h"
#include "drafter/service/drafter_hello.h"
#include "verifier/engine/drafter_link.h"

namespace tandem::cli {

// Borrows the loop, which must outlive the link. The listener is called on the draft loop's thread and on
// that of Connect and Close.
std::unique_ptr<verifier::DrafterLink> NewLocalDrafterLink(drafter::DraftLoop& loop,
                                                           const drafter::DrafterIdentity& identity);

}  // namespace tandem::cli
