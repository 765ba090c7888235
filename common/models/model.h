// A target model on one device: what the step loop asks of it.
//
//   ASSIGN_OR_RETURN(auto model, LoadModel(*checkpoint, options, pool));
//   ASSIGN_OR_RETURN(auto kv, model->CreateKvCache(num_blocks));
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
#include "common/models/step_profile.h"

namespace tandem::models {

struct ModelOptions {
  // How linear layers and the embedding are held; absent = chosen per tensor (weight_policy.h): what the file
  // holds without loss, which for quantised files is about the file's own width.
  std::optional<kernels::WeightType> weight_type = std::nullopt;
  kernels::ActivationType activation_type = kernels::ActivationType::kInt8;
  kernels::KvType kv_type = kernels::KvType::kBF16;
  int max_step_tokens = 512;  // rows of one Forward, 1 to kMaxStepTokens
  int max_logits_rows = 256;  // of which with logits, 1 to kMaxStepTokens; above max_step_tokens of no use
  int max_taps = 8;           // tapped layers of one Forward, 0 to kMaxTaps; above layers + 1 of no use
  // Highest position + 1 that Forward accepts; 0 = the model's own context, which is also the limit. Sizes
  // the rotary tables.
  int max_positions = 0;
  // The CUDA device that computes; absent = the CPU.
  std::optional<int> cuda_device = std::nullopt;
  // CUDA: what a row gets does not depend on the batch, which the CPU always holds to. Slower.
  bool deterministic = false;
};

inline constexpr int kMaxStepTokens = 65536;
inline constexpr int kMaxTaps = 1024;

// The flattened ragged batch of one step. Rows of a sequence are consecutive and in ascending position;
// sequences follow each other without gaps, so that row i belongs to exactly one entry of `sequences`.
struct Batch {
  std::span<const int32_t> tokens;                   // [T], T >= 1, each < vocab_size
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
  virtual const ModelOptions& options() const = 0;  // resolved: what Forward holds to
  // Everything about the arithmetic that results depend on: device kind and kernel version, weight types in
  // use ("~": rounded from what the file holds), activation and KV types, e.g. "cpu-1/q4+int8/int8/bf16".
  // The dispatch target is not part of it: bits are equal on all of them.
  virtual std::string NumericsId() const = 0;
  virtual int64_t WeightBytes() const = 0;  // packed, in memory

  // A cache of kv_layout() where the model computes. kResourceExhausted with the sizes.
  virtual absl::StatusOr<std::unique_ptr<kernels::KvCache>> CreateKvCache(int num_blocks) const {
    return kernels::KvCache::Create(kv_layout(), num_blocks);
  }
  // Free bytes of the memory that such a cache lies in, if that is not the host's.
  virtual std::optional<int64_t> FreeDeviceBytes() const { return std::nullopt; }

  // Computes K and V of every row into `cache` and fills `outputs`. What a row gets depends on nothing but
  // its own sequence's tokens, bit for bit. A batch against the rules above or beyond options() ends the
  // process (TANDEM_CHECK). On a CUDA device without options().deterministic bits may differ with the size of
  // the batch.
  virtual void Forward(const Batch& batch, kernels::KvCache& cache, Outputs& outputs) = 0;

  // Filled by Forward once it is enabled.
  StepProfile& profile() { return profile_; }

 protected:
  StepProfile profile_;
};

// Packs the checkpoint's weights. Borrows `pool`, which must outlive the model; copies what it needs of the
// checkpoint, which may be closed after. kInvalidArgument names the option or tensor that is out of range,
// kUnimplemented a shape or a type that the kernels of the device cannot do or a device that the build is
// not made for, kFailedPrecondition why the device is not there, kResourceExhausted memory that cannot be
// had.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const formats::Checkpoint& checkpoint,
                                                 const ModelOptions& options, ThreadPool& pool);

}  // namespace tandem::models
