#include "drafter/models/scripted.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace tandem::drafter {
namespace {

class ScriptedDrafter final : public TokenDrafter {
 public:
  explicit ScriptedDrafter(const Script& script) : script_(script) {
    info_.algorithm = info_.name = "scripted";
    info_.vocab_size = script.vocab_size;
    info_.block_size = script.block_size;
    info_.has_confidence = script.has_confidence;
  }

  void Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
             std::vector<DraftedBlock>& drafts) override {
    // A model that takes that long to compute.
    if (script_.delay > absl::ZeroDuration()) absl::SleepFor(script_.delay);
    TokenDrafter::Draft(mode, requests, kv, drafts);
  }

 private:
  void Propose(const DraftRequest& request, DraftedBlock& block) override {
    block.tokens = Continuation(request.context);
    if (script_.has_confidence) block.confidence_logits.assign(block.tokens.size(), script_.confidence);
  }

  std::vector<int32_t> Continuation(std::span<const int32_t> context) const {
    for (const std::vector<int32_t>& text : script_.texts) {
      if (text.size() <= context.size() || !std::equal(context.begin(), context.end(), text.begin()))
        continue;
      const auto begin = text.begin() + static_cast<ptrdiff_t>(context.size());
      const ptrdiff_t count = std::min<ptrdiff_t>(text.end() - begin, script_.block_size);
      return {begin, begin + count};
    }
    const auto at = script_.by_position.find(static_cast<int32_t>(context.size()));
    if (at != script_.by_position.end()) return at->second;
    std::vector<int32_t> tokens(script_.block_size, context.back());
    if (script_.rule == Script::Rule::kSuccessor) {
      for (int32_t i = 0; i < script_.block_size; ++i)
        tokens[i] = (context.back() + 1 + i) % script_.vocab_size;
    }
    return tokens;
  }

  const Script script_;
};

}  // namespace

std::unique_ptr<DraftModel> NewScriptedDrafter(const Script& script) {
  return std::make_unique<ScriptedDrafter>(script);
}

}  // namespace tandem::drafter
