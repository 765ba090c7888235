// Packs a draft checkpoint's tensors for the kernels, and takes from the target what the compact form leaves
// to it.
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
#include "common/kernels/matrix.h"
#include "common/kernels/types.h"
#include "drafter/models/draft_checkpoint.h"
#include "drafter/models/draft_model_options.h"
#include "drafter/models/token_rows.h"

namespace tandem::drafter {

// One layer in Qwen3's or Gemma4's style. For Eagle3 q, k and v read embedding and hidden state side by side:
// [.., 2H].
struct DraftLayerWeights {
  std::vector<float> input_norm;              // [H]
  kernels::Matrix q, k, v;                    // [heads * head_dim, H], kv: [kv_heads * head_dim, H]; v empty
                                              // where it is k
  std::vector<float> q_norm, k_norm;          // [head_dim]
  kernels::Matrix o;                          // [H, heads * head_dim]
  std::vector<float> post_attention_norm;     // [H], Gemma4
  std::vector<float> feed_forward_norm;       // [H]
  kernels::Matrix gate, up;                   // [I, H]
  kernels::Matrix down;                       // [H, I]
  std::vector<float> post_feed_forward_norm;  // [H], Gemma4
  float scalar = 1;                           // of the layer's output
};

// Embedding and head, of which the second may be the first.
struct VocabularyWeights {
  kernels::Matrix embedding;       // [V, H]
  kernels::Matrix own_head;        // [drafts' vocabulary, H]; empty if tied
  bool tied = false;               // the target's embedding serves as the whole head
  std::vector<int32_t> draft_ids;  // target ids of the head's rows, ascending; empty = all, in order

  const kernels::Matrix& head() const { return tied ? embedding : own_head; }
  int32_t draft_vocab() const { return static_cast<int32_t>(head().rows()); }
};

// How tensors are held: options.weight_type, else what loses nothing. Where the asked type cannot hold a
// matrix (int8 and q4 want a multiple of 32 columns), what loses nothing. A stored int8 tensor keeps its
// quants if the kernels can have them, that is with f16 scales: exactly if they fit, rounded by 2^-12 at most
// if int8 weights or activations are asked for; it becomes f32 otherwise.
// Errors name file and tensor; weights that are not finite are refused. Counts bytes as it reads.
class DraftWeightReader {
 public:
  // Borrows all three.
  DraftWeightReader(const DraftCheckpoint& checkpoint, const DraftModelOptions& options, ThreadPool& pool)
      : checkpoint_(checkpoint), options_(options), pool_(pool) {}

  absl::StatusOr<DraftLayerWeights> ReadLayer(int64_t layer);
  absl::StatusOr<VocabularyWeights> ReadVocabulary();

  // Rows `source_rows` (empty: all) of a matrix.
  absl::StatusOr<kernels::Matrix> ReadMatrix(const std::string& name,
                                             std::span<const int32_t> source_rows = {});
  // Columns [begin, end) of all rows.
  absl::StatusOr<kernels::Matrix> ReadColumns(const std::string& name, int64_t begin, int64_t end);
  absl::StatusOr<TokenRows> ReadTokenRows(const std::string& name, std::span<const int32_t> source_rows = {});
  // All values in f32, row-major.
  absl::StatusOr<std::vector<float>> ReadFloats(const std::string& name);

  // Rows of stored tensors over the drafts' vocabulary (lm_head, markov_w2): what ReadVocabulary decided.
  const std::vector<int32_t>& draft_rows() const { return draft_rows_; }
  int64_t bytes() const { return bytes_; }

 private:
  absl::Status ChooseDraftVocabulary(VocabularyWeights& weights);
  absl::StatusOr<kernels::Matrix> Pack(const formats::TensorView& tensor,
                                       std::span<const int32_t> source_rows);
  absl::StatusOr<formats::TensorView> TargetTensor(const std::string& name) const;
  kernels::WeightType TypeFor(const formats::TensorView& tensor) const;

  const DraftCheckpoint& checkpoint_;
  const DraftModelOptions& options_;
  ThreadPool& pool_;
  kernels::WeightMemory memory_;
  std::vector<int32_t> draft_rows_;
  int64_t bytes_ = 0;
};

}  // namespace tandem::drafter
