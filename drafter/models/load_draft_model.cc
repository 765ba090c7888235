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

}  // namespace

absl::StatusOr<std::unique_ptr<DraftModel>> LoadDraftModel(const DraftModelOptions& options,
                                                           ThreadPool& pool) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(const auto checkpoint, DraftCheckpoint::Open(options.path));
  switch (checkpoint->config().architecture) {
    case DraftArchitecture::kDSpark:
      return DSpark::Create(*checkpoint, options, pool);
    case DraftArchitecture::kEagle3:
      return Eagle3::Create(*checkpoint, options, pool);
  }
  TANDEM_CHECK(false);
}

}  // namespace tandem::drafter
