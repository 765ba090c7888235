// What a draft checkpoint's config.json says: one struct for DSpark, DFlash and Eagle3.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/model_config.h"

namespace tandem::drafter {

enum class DraftArchitecture { kDSpark, kEagle3 };  // kDSpark without heads is DFlash
enum class MarkovType { kNone, kVanilla, kGated, kRnn };

// Every field is checked.
struct DraftConfig {
  DraftArchitecture architecture = DraftArchitecture::kDSpark;
  // Shape of the draft layers, whose style (shape.family) is Gemma4's for targets of that family and Qwen3's
  // for all others. Every layer sees everything: shape.attention is that of all. num_layers counts draft
  // layers; vocabulary and hidden size are the target's too.
  formats::ModelConfig shape;
  int32_t num_target_layers = 0;
  int32_t block_size = 0;      // drafts per round, 1..speculation::kMaxBlockSize; Eagle3: ttt_length
  int32_t mask_token_id = -1;  // -1: none (Eagle3)
  std::vector<int32_t> taps;   // strictly increasing, -1 (DSpark only) or 0..num_target_layers - 2

  MarkovType markov = MarkovType::kNone;
  int32_t markov_rank = 0;
  bool has_confidence = false;
  bool confidence_with_markov = false;

  // The compact form: embedding and head may be the target's own, the vocabulary of drafts reduced.
  bool compact = false;
  int32_t draft_vocab_size = 0;  // 0: the whole vocabulary
  std::string target_fingerprint;

  // "dspark", "dflash", "eagle3".
  const char* algorithm() const;
};

// `path` names the file in errors. kInvalidArgument names a field out of range, kUnimplemented an
// architecture, layer type or activation that is not supported.
absl::StatusOr<DraftConfig> ParseDraftConfig(const std::string& config_json, const std::string& path);

}  // namespace tandem::drafter
