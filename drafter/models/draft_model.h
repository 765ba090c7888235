// A draft model on one device: what the drafter's engine asks of it.
//
//   ASSIGN_OR_RETURN(auto model, LoadDraftModel(options, pool));
//   ASSIGN_OR_RETURN(auto kv, kernels::KvCache::Create(model->kv_layout(), num_blocks));
//   model->AppendContext(rows, *kv);              // confirmed positions, once each
//   model->Draft(requests, *kv, drafts);          // one forward pass for all blocks that are due
//
// Context memory is paged like the verifier's: blocks of 16 positions, tables held by the engine. Draft uses
// the positions behind the context as scratch: a request's table covers start + block_size positions, and
// what lies at or behind `start` has no meaning afterwards.
//
// One thread calls at a time. AppendContext and Draft do not allocate beyond their outputs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/kernels/kv_cache.h"
#include "common/speculation/messages.h"

namespace tandem::drafter {

// Constant after load.
struct DraftModelInfo {
  std::string algorithm;  // as DrafterHello::algorithm
  std::string name;
  std::string target_fingerprint;  // empty: not said
  int32_t vocab_size = 0;          // of the target; 0 = any
  int32_t hidden_size = 0;         // 0 = any
  int32_t num_target_layers = 0;   // 0 = any
  int32_t mask_token_id = -1;
  int32_t block_size = 0;
  bool has_confidence = false;
  int32_t max_positions = 0;           // context plus block; 0 = no limit
  speculation::Projection projection;  // width 0: no rows, tokens alone
  std::vector<speculation::InitialCalibration> calibration;
  int64_t weight_bytes = 0;
};

// New confirmed positions [first_position, first_position + num_rows) of one sequence.
struct ContextRows {
  std::span<const int32_t> blocks;  // reaches to the last row's position
  int32_t first_position = 0;
  int32_t num_rows = 0;
  const float* rows = nullptr;      // [num_rows, width]; null with width 0
  std::span<const int32_t> tokens;  // [num_rows + 1]: of these positions and the one behind
};

struct DraftRequest {
  std::span<const int32_t> blocks;   // reaches to position start + block_size - 1
  std::span<const int32_t> context;  // token ids [0, start + 1); the last is the anchor
  int32_t start = 0;                 // rows in the context = position of the anchor
  uint64_t id = 0;                   // for random and scripted drafts
  uint32_t epoch = 0, round = 0;     // rejection: tag of the drafter's own noise, architecture "rejection"
  speculation::DraftSampling sampling;
};

struct DraftedBlock {
  std::vector<int32_t> tokens;           // 1..block_size target ids
  std::vector<float> confidence_logits;  // one per token if has_confidence, else none
  std::vector<std::vector<speculation::TokenProbability>> distributions;  // rejection only
};

// How drafts are drawn; fixed when a stream opens.
struct DrawMode {
  speculation::AcceptanceMode acceptance = speculation::AcceptanceMode::kCoupled;
  int32_t top_m = 0;  // rejection
};

class DraftModel {
 public:
  virtual ~DraftModel() = default;

  virtual const DraftModelInfo& info() const = 0;
  // No layers for models that keep nothing per position.
  virtual kernels::KvLayout kv_layout() const = 0;
  // Most rows of one AppendContext and blocks of one Draft; the engine splits what is more.
  virtual int32_t max_context_rows() const = 0;
  virtual int32_t max_blocks() const = 0;

  // Rows depend on their own position's inputs alone (and for Eagle3 on the positions before), bit for bit,
  // whatever else is in the call: computed in pieces or at once, the result is the same.
  virtual void AppendContext(std::span<const ContextRows> rows, kernels::KvCache& kv) = 0;
  // drafts[i] answers requests[i]. Always the whole trained block; verification alone is trimmed.
  virtual void Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
                     std::vector<DraftedBlock>& drafts) = 0;
};

}  // namespace tandem::drafter
