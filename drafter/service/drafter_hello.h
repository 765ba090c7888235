// What a drafter says of itself to a verifier that has said hello.
#pragma once

#include <string>

#include "common/speculation/local_machine.h"
#include "common/speculation/messages.h"
#include "drafter/models/draft_model.h"

namespace tandem::drafter {

// Constant while streams are taken.
struct DrafterIdentity {
  std::string incarnation;  // 16 hex digits, random per start
  DraftModelInfo model;
  std::string projection_hash;  // of model.projection; empty without rows
  int64_t row_window = 0;
  int32_t max_sequences = 0;
  int32_t max_context_rows = 0;
  speculation::LocalMachine machine;
  bool shared_memory = true;  // taken where it is offered and can work
};

std::string NewIncarnation();

// Acceptance mode and pairs are the verifier's: a drafter can draw either way. A model that fits any
// vocabulary takes the verifier's.
speculation::DrafterHello AnswerHello(const DrafterIdentity& identity,
                                      const speculation::VerifierHello& verifier);

}  // namespace tandem::drafter
