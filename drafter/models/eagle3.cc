#include "drafter/models/eagle3.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/elementwise.h"
#include "drafter/models/call_checks.h"
#include "drafter/models/draft_info.h"

namespace tandem::drafter {
namespace {

// Layers of the KV layout.
constexpr int kAttentionLayer = 0;
constexpr int kHiddenLayer = 1;  // g: its first half lies where K would, the second where V would
constexpr int kHiddenHead = 32;  // in heads of so many values, which in int8 have a scale each

int32_t StoredHalf(int64_t hidden) {
  return static_cast<int32_t>(((hidden + 1) / 2 + kHiddenHead - 1) / kHiddenHead * kHiddenHead);
}

kernels::KvLayout LayoutOf(const formats::ModelConfig& shape, kernels::KvType type) {
  const formats::AttentionConfig& attention = shape.attention;
  return kernels::KvLayout::Create(
      type, {{static_cast<int>(attention.num_kv_heads), static_cast<int>(attention.head_dim)},
             {StoredHalf(shape.hidden_size) / kHiddenHead, kHiddenHead}});
}

}  // namespace

Eagle3::Eagle3(const DraftCheckpoint& checkpoint, const DraftModelOptions& options, ThreadPool& pool)
    : pool_(pool),
      hidden_(static_cast<int32_t>(checkpoint.config().shape.hidden_size)),
      stored_half_(StoredHalf(hidden_)),
      block_size_(checkpoint.config().block_size),
      max_context_rows_(options.max_context_rows),
      max_blocks_(options.max_blocks),
      eps_(checkpoint.config().shape.rms_norm_eps),
      embedding_scale_(checkpoint.config().shape.embedding_scale),
      logit_softcap_(checkpoint.config().shape.logit_softcap),
      kv_layout_(LayoutOf(checkpoint.config().shape, options.kv_type)) {}

absl::StatusOr<std::unique_ptr<Eagle3>> Eagle3::Create(const DraftCheckpoint& checkpoint,
                                                       const DraftModelOptions& options, ThreadPool& pool) {
  const ThreadPool::Active active(pool);
  std::unique_ptr<Eagle3> model(new Eagle3(checkpoint, options, pool));
  RETURN_IF_ERROR(model->Load(checkpoint, options));
  RETURN_IF_ERROR(model->Allocate());
  return model;
}

absl::Status Eagle3::Load(const DraftCheckpoint& checkpoint, const DraftModelOptions& options) {
  DraftWeightReader reader(checkpoint, options, pool_);
  ASSIGN_OR_RETURN(info_, DescribeDraftModel(checkpoint, options, reader));
  ASSIGN_OR_RETURN(layer_, reader.ReadLayer(0));
  ASSIGN_OR_RETURN(hidden_norm_, reader.ReadFloats("layers.0.hidden_norm.weight"));
  ASSIGN_OR_RETURN(final_norm_, reader.ReadFloats("norm.weight"));
  ASSIGN_OR_RETURN(vocabulary_, reader.ReadVocabulary());
  info_.weight_bytes = reader.bytes();
  ASSIGN_OR_RETURN(pass_, DraftLayerPass::Create(checkpoint.config().shape, options.activation_type,
                                                 std::max(max_context_rows_, max_blocks_),
                                                 2 * int64_t{hidden_}, info_.max_positions, pool_));
  return absl::OkStatus();
}

absl::Status Eagle3::Allocate() {
  const int64_t rows = std::max(max_context_rows_, max_blocks_), hidden = hidden_;
  ASSIGN_OR_RETURN(work_area_, models::WorkArea::Create({rows * hidden, rows * hidden, rows * 2 * hidden,
                                                         rows * hidden, rows * 2 * stored_half_,
                                                         int64_t{max_blocks_} * vocabulary_.draft_vocab()}));
  buffers_ = {work_area_.array(0), work_area_.array(1), work_area_.array(2),
              work_area_.array(3), work_area_.array(4), work_area_.array(5)};
  scratch_.resize(max_blocks_);
  return absl::OkStatus();
}

void Eagle3::AppendContext(std::span<const ContextRows> rows, kernels::KvCache& kv) {
  CheckContextRows(*this, rows, kv);
  rows_.Clear();
  tokens_.clear();
  for (const ContextRows& part : rows) {
    if (part.num_rows == 0) continue;
    std::memcpy(buffers_.g + int64_t{rows_.count()} * hidden_, part.rows,
                size_t(part.num_rows) * hidden_ * sizeof(float));
    rows_.Add(part.blocks, part.first_position, part.num_rows, /*whole_block=*/false);
    const auto behind = part.tokens.subspan(1);
    tokens_.insert(tokens_.end(), behind.begin(), behind.end());
  }
  if (rows_.count() == 0) return;
  const ThreadPool::Active active(pool_);
  LoadLayerInput();
  pass_->WriteKeysAndValues(layer_, kAttentionLayer, rows_, kv);
  StoreHidden(kv);
}

void Eagle3::LoadLayerInput() {
  const int32_t rows = rows_.count();
  kernels::EmbeddingLookup(vocabulary_.embedding, tokens_, buffers_.embedded, pool_);
  if (embedding_scale_ != 1) {
    kernels::ScaleInPlace(buffers_.embedded, embedding_scale_, int64_t{rows} * hidden_, pool_);
  }
  kernels::RmsNorm(buffers_.embedded, layer_.input_norm, eps_, rows, buffers_.embedded, pool_);
  kernels::RmsNorm(buffers_.g, hidden_norm_, eps_, rows, buffers_.normed, pool_);
  const size_t row_bytes = hidden_ * sizeof(float);
  for (int64_t r = 0; r < rows; ++r) {
    float* const u = buffers_.input + r * 2 * hidden_;
    std::memcpy(u, buffers_.embedded + r * hidden_, row_bytes);
    std::memcpy(u + hidden_, buffers_.normed + r * hidden_, row_bytes);
  }
  pass_->LoadInput(buffers_.input, rows, 2 * int64_t{hidden_});
}

void Eagle3::StoreHidden(kernels::KvCache& kv) {
  const int64_t stride = 2 * int64_t{stored_half_};
  for (int64_t r = 0; r < rows_.count(); ++r) {
    float* const row = buffers_.halves + r * stride;
    std::memcpy(row, buffers_.g + r * hidden_, hidden_ * sizeof(float));
    std::fill(row + hidden_, row + stride, 0.0f);
  }
  kernels::WriteKv(buffers_.halves, buffers_.halves + stored_half_, stride, kHiddenLayer, rows_.sequences, kv,
                   pool_);
}

void Eagle3::ReadLastHidden(std::span<const DraftRequest> requests, const kernels::KvCache& kv) {
  for (size_t r = 0; r < requests.size(); ++r) {
    float* const row = buffers_.halves;
    kernels::ReadKv(kv, kHiddenLayer, requests[r].blocks, requests[r].start - 1, row, row + stored_half_);
    std::memcpy(buffers_.g + r * hidden_, row, hidden_ * sizeof(float));
  }
}

void Eagle3::Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
                   std::vector<DraftedBlock>& drafts) {
  const bool with_distributions = mode.acceptance == speculation::AcceptanceMode::kRejection;
  DraftWith(NoiseDrawer(mode), with_distributions, requests, kv, drafts);
}

void Eagle3::DraftWith(const TokenDrawer& drawer, bool with_distributions,
                       std::span<const DraftRequest> requests, kernels::KvCache& kv,
                       std::vector<DraftedBlock>& drafts) {
  CheckDraftRequests(*this, requests, kv);
  StartDrafts(requests.size(), block_size_, with_distributions, drafts);
  if (requests.empty()) return;
  for (const DraftRequest& request : requests) TANDEM_CHECK(request.start >= 1);
  const ThreadPool::Active active(pool_);
  ReadLastHidden(requests, kv);
  tokens_.clear();
  for (const DraftRequest& request : requests) tokens_.push_back(request.context.back());
  const auto vocab = static_cast<size_t>(vocabulary_.draft_vocab());
  for (int32_t k = 0; k < block_size_; ++k) {
    rows_.Clear();
    for (const DraftRequest& request : requests) {
      rows_.Add(request.blocks, request.start - 1 + k, 1, /*whole_block=*/false);
    }
    Step(k, kv);
    pool_.ForEachTile(static_cast<int>(requests.size()), [&](int r) {
      const DraftLogits logits = {{buffers_.logits + r * vocab, vocab}, vocabulary_.draft_ids};
      tokens_[r] = drawer.Draw(requests[r], k + 1, logits, scratch_[r],
                               with_distributions ? &drafts[r].distributions[k] : nullptr);
      drafts[r].tokens.push_back(tokens_[r]);
    });
  }
}

void Eagle3::Step(int32_t k, kernels::KvCache& kv) {
  const int32_t rows = rows_.count();
  LoadLayerInput();
  if (k == 0) {  // the last context row: its K and V are there
    pass_->AttentionBranchOverWritten(layer_, kAttentionLayer, rows_, kv, buffers_.g);
  } else {
    pass_->AttentionBranch(layer_, kAttentionLayer, rows_, kv, buffers_.g);
  }
  pass_->FeedForwardBranch(layer_, rows, buffers_.g);
  kernels::RmsNorm(buffers_.g, final_norm_, eps_, rows, buffers_.normed, pool_);
  kernels::Gemm(pass_->LoadInput(buffers_.normed, rows, hidden_), vocabulary_.head(), buffers_.logits, 0,
                pool_);
  if (logit_softcap_ > 0) {
    kernels::SoftCapInPlace(buffers_.logits, logit_softcap_, int64_t{rows} * vocabulary_.draft_vocab(),
                            pool_);
  }
}

}  // namespace tandem::drafter
