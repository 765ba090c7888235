// How a draft model is loaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/formats/checkpoint.h"
#include "common/kernels/types.h"

namespace tandem::drafter {

struct DraftModelOptions {
  std::string path;  // directory of the draft checkpoint
  // The target's, for what the compact form leaves to it; only read while loading. Null: the checkpoint must
  // have it all.
  const formats::Checkpoint* target = nullptr;

  // As in models::ModelOptions: absent = chosen per tensor.
  std::optional<kernels::WeightType> weight_type = std::nullopt;
  kernels::ActivationType activation_type = kernels::ActivationType::kInt8;
  kernels::KvType kv_type = kernels::KvType::kBF16;

  int32_t max_context_rows = 512;  // of one AppendContext, 1 to kMaxContextRows
  int32_t max_blocks = 32;         // of one Draft, 1 to kMaxBlocks
  // Highest position + 1, block included; 0 = the context that config.json names, and a block behind it.
  int32_t max_positions = 0;
  // The Markov head scores only this many of the best base logits of each position, and only they can be
  // drawn; 0 = the whole vocabulary, which for small targets costs more than all the rest of a draft.
  int32_t markov_top_k = 0;
  // Drafts are drawn among the first this many tokens of draft_vocab.safetensors; 0 = all that the checkpoint
  // has; kUsualDraftVocab = kUsualDraftVocabSize of them where there is such a list, else all.
  int32_t draft_vocab = 0;
};

inline constexpr int32_t kUsualDraftVocab = -1;
// On the default drafter as many cost nothing: tau 1.79 with 8192 as with all 49152 (its README).
inline constexpr int32_t kUsualDraftVocabSize = 8192;

inline constexpr int32_t kMaxContextRows = 65536;
inline constexpr int32_t kMaxBlocks = 4096;

}  // namespace tandem::drafter
