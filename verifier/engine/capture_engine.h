// Runs whole texts through a model for their hidden states and, where asked, their continuation.
//
//   ASSIGN_OR_RETURN(auto engine, CaptureEngine::Create(options, model));
//   RETURN_IF_ERROR(engine->Start(layers, row_type));             // nothing of an earlier stream is left
//   RETURN_IF_ERROR(engine->Check(text));  engine->Add(text);     // any number, up to max_texts
//   while (engine->has_work()) engine->Step(pieces);
//
// Like the step loop it fills each step with rows of several texts, and a text's tokens are the same
// functions of (seed, index, logits), so that trainer and service see one and the same target. Unlike it
// there is nothing to share or to preempt: a text starts when blocks for its whole length are free.
//
// Not thread-safe. Borrows the model.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/models/model.h"
#include "common/sampling/sampler.h"
#include "common/speculation/messages.h"

namespace tandem::verifier {

struct CaptureOptions {
  int64_t kv_bytes = 0;     // 0: a quarter of what is free
  int max_texts = 64;       // unfinished ones
  int prefill_chunk = 256;  // rows of one text and step
};

inline constexpr int kMaxCaptureLayers = 16;
inline constexpr size_t kMaxCaptureStopTokens = 64;
// A piece with more rows is cut, so that messages stay small; one row may be larger.
inline constexpr int64_t kMaxPieceBytes = 1 << 20;

struct CaptureText {
  uint64_t id = 0;
  std::vector<int32_t> tokens;
  int32_t max_tokens = 0;  // 0: nothing is generated
  std::vector<int32_t> stop_token_ids;
  sampling::SamplingParams sampling;
  bool rows = false;
};

// As capture.proto's.
struct CapturedPiece {
  uint64_t id = 0;
  int32_t first_position = 0;
  int32_t num_rows = 0;
  std::string rows;
  std::vector<int32_t> tokens;
  bool done = false;
};

class CaptureEngine {
 public:
  // kResourceExhausted if not even one text of full length would have memory.
  static absl::StatusOr<std::unique_ptr<CaptureEngine>> Create(const CaptureOptions& options,
                                                               models::Model& model);

  // Forgets all texts; rows from now on are these layers' outputs. kInvalidArgument names `layers`.
  absl::Status Start(std::vector<int32_t> layers, speculation::RowType row_type);
  // kInvalidArgument names the field; kResourceExhausted: max_texts are unfinished.
  absl::Status Check(const CaptureText& text) const;
  // Requires that Check has passed.
  void Add(CaptureText text);

  bool has_work() const { return !texts_.empty(); }
  // One forward pass; appends what there is to say. kInvalidArgument if the model's logits are no numbers:
  // the texts are then in no state to go on with.
  absl::Status Step(std::vector<CapturedPiece>& pieces);

  int32_t max_text_length() const { return max_text_length_; }
  int max_texts() const { return options_.max_texts; }

 private:
  struct Running {
    CaptureText text;
    int32_t prompt_length = 0;
    int32_t computed = 0;
    std::vector<int32_t> blocks;  // empty: not started

    bool generates() const { return text.max_tokens > 0; }
  };
  // A text's part of a step.
  struct Slice {
    Running* running;
    int32_t first_row, num_rows;
    int32_t logits_row;  // index among the rows with logits; -1: none
  };

  CaptureEngine(const CaptureOptions& options, models::Model& model, std::unique_ptr<kernels::KvCache> cache,
                int32_t max_text_length);

  void StartWaiting();
  void Plan();
  void AppendRows(const Slice& slice, std::vector<CapturedPiece>& pieces) const;
  absl::Status Sample(const Slice& slice);
  bool IsDone(const Running& running) const;

  const CaptureOptions options_;
  models::Model& model_;
  const std::unique_ptr<kernels::KvCache> cache_;
  const int32_t max_text_length_;

  std::vector<int32_t> layers_;
  speculation::RowType row_type_ = speculation::RowType::kBF16;
  std::vector<int32_t> free_blocks_;
  std::deque<std::unique_ptr<Running>> texts_;  // in order of arrival; started ones first

  // Of the present step.
  std::vector<Slice> slices_;
  std::vector<int32_t> tokens_, positions_, logits_rows_;
  std::vector<kernels::SequenceRows> sequences_;
  models::Outputs outputs_;
  sampling::Scratch scratch_;
};

}  // namespace tandem::verifier
