#include "drafter/models/ngram.h"

#include "common/base/status.h"

namespace tandem::drafter {
namespace {

class NgramDrafter final : public TokenDrafter {
 public:
  explicit NgramDrafter(const NgramOptions& options) {
    TANDEM_CHECK(options.block_size >= 1 && options.block_size <= speculation::kMaxBlockSize);
    info_.algorithm = info_.name = "ngram";
    info_.block_size = options.block_size;
  }

 private:
  void Propose(const DraftRequest& request, DraftedBlock& block) override {
    const std::span<const int32_t> text = request.context;
    const int32_t next = FindContinuation(text);
    if (next == 0) {  // every round is answered: a token that may repeat costs one row
      block.tokens = {text.back()};
      return;
    }
    // Reads on into what it has proposed: a text that ends in a loop goes on looping.
    for (int32_t i = 0; i < info_.block_size; ++i) {
      const size_t at = static_cast<size_t>(next) + i;
      block.tokens.push_back(at < text.size() ? text[at] : block.tokens[at - text.size()]);
    }
  }
};

}  // namespace

int32_t FindContinuation(std::span<const int32_t> text) {
  const int32_t size = static_cast<int32_t>(text.size());
  int32_t best = 0, best_length = 0;
  for (int32_t end = size - 1; end >= 1 && best_length < kMaxNgram; --end) {
    int32_t length = 0;
    while (length < kMaxNgram && length < end && text[end - 1 - length] == text[size - 1 - length]) ++length;
    if (length > best_length) {
      best = end;
      best_length = length;
    }
  }
  return best;
}

std::unique_ptr<DraftModel> NewNgramDrafter(const NgramOptions& options) {
  return std::make_unique<NgramDrafter>(options);
}

}  // namespace tandem::drafter
