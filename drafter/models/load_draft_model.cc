#include "drafter/models/load_draft_model.h"

#include "common/base/status.h"
#include "common/formats/model_limits.h"
#include "drafter/models/draft_checkpoint.h"
#include "drafter/models/dspark.h"
#include "drafter/models/eagle3.h"

namespace tandem::drafter {
namespace {

absl::Status CheckOption(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("{} is {}, allowed are {} to {}", name, value, low, high);
}

absl::Status CheckOptions(const DraftModelOptions& options) {
  RETURN_IF_ERROR(CheckOption("max_context_rows", options.max_context_rows, 1, kMaxContextRows));
  RETURN_IF_ERROR(CheckOption("max_blocks", options.max_blocks, 1, kMaxBlocks));
  RETURN_IF_ERROR(CheckOption("max_positions", options.max_positions, 0, formats::kMaxContext));
  RETURN_IF_ERROR(CheckOption("markov_top_k", options.markov_top_k, 0, formats::kMaxVocab));
  return CheckOption("draft_vocab", options.draft_vocab, kUsualDraftVocab, formats::kMaxVocab);
}

// What the verifier would find out at Hello (speculation/hello_fit.h), where the files tell it at once.
absl::Status CheckTarget(const DraftCheckpoint& checkpoint, const formats::Checkpoint& target) {
  const DraftConfig& draft = checkpoint.config();
  const struct {
    const char* field;
    int64_t wanted, found;
  } sizes[] = {{"vocab_size", draft.shape.vocab_size, target.config().vocab_size},
               {"hidden_size", draft.shape.hidden_size, target.config().hidden_size},
               {"num_target_layers", draft.num_target_layers, target.config().num_layers}};
  for (const auto& size : sizes) {
    if (size.wanted == size.found) continue;
    return InvalidArgument("{}: made for another target than {}: {} is {}, the target has {}",
                           checkpoint.path(), target.path(), size.field, size.wanted, size.found);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DraftModel>> LoadDraftModel(const DraftModelOptions& options,
                                                           ThreadPool& pool) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const auto checkpoint, DraftCheckpoint::Open(options.path));
  if (options.target != nullptr) RETURN_IF_ERROR(CheckTarget(*checkpoint, *options.target));
  switch (checkpoint->config().architecture) {
    case DraftArchitecture::kDSpark:
      return DSpark::Create(*checkpoint, options, pool);
    case DraftArchitecture::kEagle3:
      return Eagle3::Create(*checkpoint, options, pool);
  }
  TANDEM_CHECK(false);
}

}  // namespace tandem::drafter
