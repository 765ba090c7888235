#include "drafter/models/dspark.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/elementwise.h"
#include "common/sampling/row_scan.h"
#include "drafter/models/call_checks.h"
#include "drafter/models/draft_info.h"

namespace tandem::drafter {
namespace {

kernels::KvLayout LayoutOf(const formats::ModelConfig& shape, kernels::KvType type) {
  const formats::AttentionConfig& attention = shape.attention;
  const kernels::KvLayerShape layer = {static_cast<int>(attention.num_kv_heads),
                                       static_cast<int>(attention.head_dim)};
  return kernels::KvLayout::Create(type, std::vector<kernels::KvLayerShape>(shape.num_layers, layer));
}

}  // namespace

DSpark::DSpark(const DraftCheckpoint& checkpoint, const DraftModelOptions& options, ThreadPool& pool)
    : pool_(pool),
      hidden_(static_cast<int32_t>(checkpoint.config().shape.hidden_size)),
      num_layers_(static_cast<int32_t>(checkpoint.config().shape.num_layers)),
      block_size_(checkpoint.config().block_size),
      mask_token_id_(checkpoint.config().mask_token_id),
      max_context_rows_(options.max_context_rows),
      max_blocks_(options.max_blocks),
      markov_top_k_(options.markov_top_k),
      eps_(checkpoint.config().shape.rms_norm_eps),
      embedding_scale_(checkpoint.config().shape.embedding_scale),
      logit_softcap_(checkpoint.config().shape.logit_softcap),
      kv_layout_(LayoutOf(checkpoint.config().shape, options.kv_type)) {}

absl::StatusOr<std::unique_ptr<DSpark>> DSpark::Create(const DraftCheckpoint& checkpoint,
                                                       const DraftModelOptions& options, ThreadPool& pool) {
  const ThreadPool::Active active(pool);
  std::unique_ptr<DSpark> model(new DSpark(checkpoint, options, pool));
  RETURN_IF_ERROR(model->Load(checkpoint, options));
  RETURN_IF_ERROR(model->Allocate());
  return model;
}

absl::Status DSpark::Load(const DraftCheckpoint& checkpoint, const DraftModelOptions& options) {
  const DraftConfig& config = checkpoint.config();
  DraftWeightReader reader(checkpoint, options, pool_);
  ASSIGN_OR_RETURN(info_, DescribeDraftModel(checkpoint, options, reader));
  for (int64_t layer = 0; layer < num_layers_; ++layer) {
    ASSIGN_OR_RETURN(DraftLayerWeights weights, reader.ReadLayer(layer));
    layers_.push_back(std::move(weights));
  }
  ASSIGN_OR_RETURN(final_norm_, reader.ReadFloats("norm.weight"));
  ASSIGN_OR_RETURN(vocabulary_, reader.ReadVocabulary());
  if (config.markov_rank > 0 || config.has_confidence) {
    ASSIGN_OR_RETURN(head_, SequentialHead::Load(config, options, reader, pool_));
  }
  info_.weight_bytes = reader.bytes();
  const int64_t max_rows = std::max<int64_t>(max_context_rows_, int64_t{max_blocks_} * block_size_);
  ASSIGN_OR_RETURN(pass_, DraftLayerPass::Create(config.shape, options.activation_type, max_rows, hidden_,
                                                 info_.max_positions, pool_));
  return absl::OkStatus();
}

absl::Status DSpark::Allocate() {
  const int64_t rows = int64_t{max_blocks_} * block_size_, vocab = vocabulary_.draft_vocab();
  ASSIGN_OR_RETURN(work_area_, models::WorkArea::Create({int64_t{max_context_rows_} * hidden_, rows * hidden_,
                                                         rows * hidden_, rows * vocab}));
  buffers_ = {work_area_.array(0), work_area_.array(1), work_area_.array(2), work_area_.array(3)};
  lanes_.resize(max_blocks_);
  return absl::OkStatus();
}

void DSpark::AppendContext(std::span<const ContextRows> rows, kernels::KvCache& kv) {
  CheckContextRows(*this, rows, kv);
  rows_.Clear();
  for (const ContextRows& part : rows) {
    if (part.num_rows == 0) continue;
    std::memcpy(buffers_.context + int64_t{rows_.count()} * hidden_, part.rows,
                size_t(part.num_rows) * hidden_ * sizeof(float));
    rows_.Add(part.blocks, part.first_position, part.num_rows, /*whole_block=*/false);
  }
  if (rows_.count() == 0) return;
  const ThreadPool::Active active(pool_);
  pass_->LoadInput(buffers_.context, rows_.count(), hidden_);
  for (int layer = 0; layer < num_layers_; ++layer) {
    pass_->WriteKeysAndValues(layers_[layer], layer, rows_, kv);
  }
}

void DSpark::Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
                   std::vector<DraftedBlock>& drafts) {
  const bool with_distributions = mode.acceptance == speculation::AcceptanceMode::kRejection;
  DraftWith(NoiseDrawer(mode), with_distributions, requests, kv, drafts);
}

void DSpark::DraftWith(const TokenDrawer& drawer, bool with_distributions,
                       std::span<const DraftRequest> requests, kernels::KvCache& kv,
                       std::vector<DraftedBlock>& drafts) {
  CheckDraftRequests(*this, requests, kv);
  StartDrafts(requests.size(), block_size_, with_distributions, drafts);
  if (requests.empty()) return;
  const ThreadPool::Active active(pool_);
  Backbone(requests, kv);
  BaseLogits();

  previous_.clear();
  for (const DraftRequest& request : requests) previous_.push_back(request.context.back());
  if (head_ != nullptr) head_->Begin(static_cast<int32_t>(requests.size()));
  for (int32_t k = 0; k < block_size_; ++k) DrawPosition(k, drawer, with_distributions, requests, drafts);
}

void DSpark::Backbone(std::span<const DraftRequest> requests, kernels::KvCache& kv) {
  rows_.Clear();
  tokens_.clear();
  for (const DraftRequest& request : requests) {
    rows_.Add(request.blocks, request.start, block_size_, /*whole_block=*/true);
    tokens_.push_back(request.context.back());
    tokens_.insert(tokens_.end(), block_size_ - 1, mask_token_id_);
  }
  kernels::EmbeddingLookup(vocabulary_.embedding, tokens_, buffers_.x, pool_);
  if (embedding_scale_ != 1) {
    kernels::ScaleInPlace(buffers_.x, embedding_scale_, int64_t{rows_.count()} * hidden_, pool_);
  }
  for (int layer = 0; layer < num_layers_; ++layer) {
    const DraftLayerWeights& w = layers_[layer];
    kernels::RmsNorm(buffers_.x, w.input_norm, eps_, rows_.count(), buffers_.normed, pool_);
    pass_->LoadInput(buffers_.normed, rows_.count(), hidden_);
    pass_->AttentionBranch(w, layer, rows_, kv, buffers_.x);
    pass_->FeedForwardBranch(w, rows_.count(), buffers_.x);
  }
  kernels::RmsNorm(buffers_.x, final_norm_, eps_, rows_.count(), buffers_.normed, pool_);
}

void DSpark::BaseLogits() {
  products_.assign({{&vocabulary_.head(), buffers_.base}});
  if (head_ != nullptr) head_->AppendProducts(products_);
  kernels::GemmMany(pass_->LoadInput(buffers_.normed, rows_.count(), hidden_), products_, pool_);
  if (logit_softcap_ > 0) {
    kernels::SoftCapInPlace(buffers_.base, logit_softcap_, int64_t{rows_.count()} * vocabulary_.draft_vocab(),
                            pool_);
  }
}

void DSpark::DrawPosition(int32_t k, const TokenDrawer& drawer, bool with_distributions,
                          std::span<const DraftRequest> requests, std::vector<DraftedBlock>& drafts) {
  const auto num_requests = static_cast<int32_t>(requests.size());
  if (head_ != nullptr && head_->has_markov()) {
    head_->Step(k, previous_);
    if (markov_top_k_ == 0) bias_ = head_->BiasOfAll(num_requests);
  }
  pool_.ForEachTile(num_requests, [&](int r) {
    DraftedBlock& block = drafts[r];
    if (info_.has_confidence) block.confidence_logits.push_back(head_->ConfidenceLogit(r, k, previous_[r]));
    previous_[r] = drawer.Draw(requests[r], k + 1, LogitsOf(r, k), lanes_[r].scratch,
                               with_distributions ? &block.distributions[k] : nullptr);
    block.tokens.push_back(previous_[r]);
  });
}

DraftLogits DSpark::LogitsOf(int32_t request, int32_t k) {
  const auto vocab = static_cast<size_t>(vocabulary_.draft_vocab());
  const std::span<const float> base = {buffers_.base + (int64_t{request} * block_size_ + k) * vocab, vocab};
  if (head_ == nullptr || !head_->has_markov()) return {base, vocabulary_.draft_ids};
  if (markov_top_k_ > 0) return ScoreTopCandidates(request, base);
  float* const corrected = bias_ + request * vocab;
  for (size_t v = 0; v < vocab; ++v) corrected[v] += base[v];
  return {{corrected, vocab}, vocabulary_.draft_ids};
}

DraftLogits DSpark::ScoreTopCandidates(int32_t request, std::span<const float> base) {
  Lane& lane = lanes_[request];
  auto& top = lane.scratch.candidates;
  sampling::CollectLargest(base, markov_top_k_, top);
  if (top.empty()) return {base, vocabulary_.draft_ids};  // no logit is a number: the drawer's case
  std::sort(top.begin(), top.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  lane.values.clear();
  lane.ids.clear();
  for (const auto& [logit, row] : top) {
    lane.values.push_back(logit + head_->Bias(request, row));
    lane.ids.push_back(vocabulary_.draft_ids.empty() ? row : vocabulary_.draft_ids[row]);
  }
  return {lane.values, lane.ids};
}

std::span<const float> DSpark::block_hidden() const {
  return {buffers_.normed, static_cast<size_t>(rows_.count()) * hidden_};
}

std::span<const float> DSpark::base_logits() const {
  return {buffers_.base, static_cast<size_t>(rows_.count()) * vocabulary_.draft_vocab()};
}

}  // namespace tandem::drafter
