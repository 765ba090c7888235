// A target model on one device: what the step loop asks of it.
//
//   ASSIGN_OR_RETURN(auto model, LoadModel(*checkpoint, options, pool));
//   ASSIGN_OR_RETURN(auto kv, kernels::KvCache::Create(model->kv_layout(), num_blocks));
//   model->Forward(batch, *kv, outputs);
//
// One thread calls Forward at a time. Forward does not allocate: work areas are sized by ModelOptions at
// load.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/formats/checkpoint.h"
#include "common/kernels/attention.h"
#include "common/kernels/kv_cache.h"
#include "common/kernels/types.h"

namespace tandem::models {

struct ModelOptions {
  // How linear layers and the embedding are held; absent = what the file holds without loss
  // (kernels::LosslessWeightType), which for quantised files is about the file's own width.
  std::optional<kernels::WeightType> weight_type;
  kernels::ActivationType activation_type = kernels::ActivationType::kInt8;
  kernels::KvType kv_type = kernels::KvType::kBF16;
  int max_step_tokens = 512;  // rows of one Forward
  int max_logits_rows = 256;  // of which with logits
  // Highest position + 1 that Forward accepts; 0 = the model's own context. Sizes the rotary tables.
  int max_positions = 0;
};

// The flattened ragged batch of one step. Rows of a sequence are consecutive and in ascending position;
// sequences follow each other without gaps, so that row i belongs to exactly one entry of `sequences`.
struct Batch {
  std::span<const int32_t> tokens;                   // [T], each < vocab_size
  std::span<const int32_t> positions;                // [T]; agrees with sequences[].first_position
  std::span<const kernels::SequenceRows> sequences;  // block tables cover every position written or read
  std::span<const int32_t> logits_rows;              // row numbers, ascending; several per sequence allowed
  // Layers whose output is wanted for every row: l = output of decoder block l (0-based, the residual stream
  // before any norm), -1 = what enters block 0. Ascending.
  std::span<const int32_t> taps;
};

// Views into the model's work areas, valid until the next Forward.
struct Outputs {
  std::span<const float> logits;             // [logits_rows, V] f32, row-major
  std::vector<std::span<const float>> taps;  // per tapped layer [T, H] f32
};

class Model {
 public:
  virtual ~Model() = default;

  virtual const formats::ModelConfig& config() const = 0;
  virtual kernels::KvLayout kv_layout() const = 0;
  virtual const ModelOptions& options() const = 0;  // max_positions resolved
  // Everything about the arithmetic that results depend on: device kind, kernel version, weight, activation and KV
  // types, e.g. "cpu-1/q4+int8/int8/bf16". The dispatch target is not part of it: bits are equal on all of them.
  virtual std::string NumericsId() const = 0;
  virtual int64_t WeightBytes() const = 0;

  // Computes K and V of every row into `cache` and fills `outputs`. Sizes within options(), CHECKed.
  virtual void Forward(const Batch& batch, kernels::KvCache& cache, Outputs& outputs) = 0;
};

// Packs the checkpoint's weights. Borrows `pool`; copies what it needs of the checkpoint, which may be closed
// after.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const formats::Checkpoint& checkpoint,
                                                 const ModelOptions& options, ThreadPool& pool);

}  // namespace tandem::models
