// A drafter that breaks the protocol on purpose, as its script says (models/script.h): to test that verifiers
// notice and that the text stays the same. For tests only.
#pragma once

#include <cstdint>
#include <vector>

#include "common/speculation/messages.h"
#include "drafter/models/script.h"

namespace tandem::drafter {

// Of one stream.
class Misbehaviours {
 public:
  // Borrows the script.
  Misbehaviours(const Script& script, int32_t vocab_size) : script_(script), vocab_size_(vocab_size) {}

  void Spoil(speculation::DrafterHello& hello) const;
  // What is sent in the place of a batch, which is numbered already; mostly the batch itself.
  std::vector<speculation::DraftBatch> Spoil(speculation::DraftBatch batch);

 private:
  const Script& script_;
  const int32_t vocab_size_;
  int64_t num_batches_ = 0;  // with drafts
};

}  // namespace tandem::drafter
