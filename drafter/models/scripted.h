// A drafter that proposes what a script says (script.h). For tests.
#pragma once

#include <memory>

#include "drafter/models/script.h"
#include "drafter/models/token_drafter.h"

namespace tandem::drafter {

// Misdeeds of the script are not the model's: it proposes what it should.
std::unique_ptr<DraftModel> NewScriptedDrafter(const Script& script);

}  // namespace tandem::drafter
