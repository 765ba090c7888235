#include "drafter/models/draft_layer.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/elementwise.h"

namespace tandem::drafter {

void DraftRows::Clear() {
  positions.clear();
  sequences.clear();
}

void DraftRows::Add(std::span<const int32_t> blocks, int32_t first_position, int32_t num_rows,
                    bool whole_block) {
  sequences.push_back({.first_row = count(),
                       .num_rows = num_rows,
                       .first_position = first_position,
                       .blocks = blocks,
                       .whole_block = whole_block});
  for (int32_t i = 0; i < num_rows; ++i) positions.push_back(first_position + i);
}

DraftLayerPass::DraftLayerPass(const formats::ModelConfig& shape, ThreadPool& pool)
    : pool_(pool),
      hidden_(static_cast<int>(shape.hidden_size)),
      heads_(static_cast<int>(shape.num_heads)),
      kv_heads_(static_cast<int>(shape.attention.num_kv_heads)),
      head_dim_(static_cast<int>(shape.attention.head_dim)),
      intermediate_(static_cast<int>(shape.intermediate_size)),
      eps_(shape.rms_norm_eps),
      attention_scale_(shape.attention_scale),
      value_is_key_(shape.attention.value_is_key),
      gelu_(shape.traits().gelu),
      ones_(shape.traits().value_norm ? shape.attention.head_dim : 0, 1.0f) {}

absl::StatusOr<std::unique_ptr<DraftLayerPass>> DraftLayerPass::Create(
    const formats::ModelConfig& shape, kernels::ActivationType activation_type, int64_t max_rows,
    int64_t max_cols, int64_t max_positions, ThreadPool& pool) {
  std::unique_ptr<DraftLayerPass> pass(new DraftLayerPass(shape, pool));
  const formats::AttentionConfig& attention = shape.attention;
  ASSIGN_OR_RETURN(pass->rope_,
                   models::RopeTables::Create(attention.rope, attention.head_dim, max_positions, pool));
  Buffers& b = pass->buffers_;
  const int64_t q_width = shape.num_heads * attention.head_dim;
  const int64_t kv_width = attention.num_kv_heads * attention.head_dim;
  const std::vector<std::pair<float**, int64_t>> arrays = {
      {&b.q, q_width},
      {&b.k, kv_width},
      {&b.v, kv_width},
      {&b.attended, q_width},
      {&b.normed, pass->hidden_},
      {&b.gate, pass->intermediate_},
      {&b.up, pass->intermediate_},
      {&b.branch, pass->hidden_},
  };
  std::vector<int64_t> sizes;
  for (const auto& [view, width] : arrays) sizes.push_back(max_rows * width);
  ASSIGN_OR_RETURN(pass->work_area_, models::WorkArea::Create(sizes));
  for (size_t i = 0; i < arrays.size(); ++i) {
    *arrays[i].first = pass->work_area_.array(static_cast<int>(i));
  }
  const int64_t cols = std::max({max_cols, shape.hidden_size, q_width, shape.intermediate_size});
  try {
    pass->input_ = std::make_unique<kernels::Activations>(static_cast<int>(max_rows), static_cast<int>(cols),
                                                          activation_type);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("no memory for activations of {} rows of {}", max_rows, cols);
  }
  return pass;
}

const kernels::Activations& DraftLayerPass::LoadInput(const float* x, int32_t rows, int64_t cols) {
  input_->Load({x, static_cast<size_t>(rows * cols)}, rows, static_cast<int>(cols), pool_);
  return *input_;
}

void DraftLayerPass::StoreKeysAndValues(const DraftLayerWeights& w, int layer, const DraftRows& rows,
                                        kernels::KvCache& kv) {
  const Buffers& b = buffers_;
  const int kv_width = kv_heads_ * head_dim_;
  if (value_is_key_) std::memcpy(b.v, b.k, sizeof(float) * rows.count() * kv_width);
  kernels::RmsNormHeads(b.k, kv_width, rows.count(), kv_heads_, w.k_norm, eps_, pool_);
  if (!ones_.empty()) kernels::RmsNormHeads(b.v, kv_width, rows.count(), kv_heads_, ones_, eps_, pool_);
  kernels::Rope(b.k, kv_width, rows.positions, kv_heads_, head_dim_, rope_.cos.data(), rope_.sin.data(),
                pool_);
  kernels::WriteKv(b.k, b.v, kv_width, layer, rows.sequences, kv, pool_);
}

void DraftLayerPass::WriteKeysAndValues(const DraftLayerWeights& w, int layer, const DraftRows& rows,
                                        kernels::KvCache& kv) {
  const kernels::GemmOutput outputs[] = {{&w.k, buffers_.k}, {&w.v, buffers_.v}};
  kernels::GemmMany(*input_, std::span(outputs).first(value_is_key_ ? 1 : 2), pool_);
  StoreKeysAndValues(w, layer, rows, kv);
}

void DraftLayerPass::AttentionBranch(const DraftLayerWeights& w, int layer, const DraftRows& rows,
                                     kernels::KvCache& kv, float* x) {
  const kernels::GemmOutput outputs[] = {{&w.q, buffers_.q}, {&w.k, buffers_.k}, {&w.v, buffers_.v}};
  kernels::GemmMany(*input_, std::span(outputs).first(value_is_key_ ? 2 : 3), pool_);
  StoreKeysAndValues(w, layer, rows, kv);
  Attend(w, layer, rows, kv, x);
}

void DraftLayerPass::AttentionBranchOverWritten(const DraftLayerWeights& w, int layer, const DraftRows& rows,
                                                const kernels::KvCache& kv, float* x) {
  kernels::Gemm(*input_, w.q, buffers_.q, 0, pool_);
  Attend(w, layer, rows, kv, x);
}

void DraftLayerPass::Attend(const DraftLayerWeights& w, int layer, const DraftRows& rows,
                            const kernels::KvCache& kv, float* x) {
  const Buffers& b = buffers_;
  const int q_width = heads_ * head_dim_;
  kernels::RmsNormHeads(b.q, q_width, rows.count(), heads_, w.q_norm, eps_, pool_);
  kernels::Rope(b.q, q_width, rows.positions, heads_, head_dim_, rope_.cos.data(), rope_.sin.data(), pool_);
  kernels::Attention(b.q, q_width, layer, rows.sequences, kv, heads_, attention_scale_, b.attended, q_width,
                     pool_);
  kernels::Gemm(LoadInput(b.attended, rows.count(), q_width), w.o, b.branch, hidden_, pool_);
  AddBranch(w.post_attention_norm, rows.count(), x);
}

void DraftLayerPass::FeedForwardBranch(const DraftLayerWeights& w, int32_t rows, float* x) {
  const Buffers& b = buffers_;
  kernels::RmsNorm(x, w.feed_forward_norm, eps_, rows, b.normed, pool_);
  LoadInput(b.normed, rows, hidden_);
  const kernels::GemmOutput gate_up[] = {{&w.gate, b.gate}, {&w.up, b.up}};
  kernels::GemmMany(*input_, gate_up, pool_);
  const auto activate = gelu_ ? kernels::GeGlu : kernels::SwiGlu;
  activate(b.gate, b.up, rows, intermediate_, b.gate, pool_);
  kernels::Gemm(LoadInput(b.gate, rows, intermediate_), w.down, b.branch, hidden_, pool_);
  AddBranch(w.post_feed_forward_norm, rows, x);
  if (w.scalar != 1) kernels::ScaleInPlace(x, w.scalar, int64_t{rows} * hidden_, pool_);
}

void DraftLayerPass::AddBranch(const std::vector<float>& post_norm, int32_t rows, float* x) {
  const Buffers& b = buffers_;
  if (!post_norm.empty()) kernels::RmsNorm(b.branch, post_norm, eps_, rows, b.branch, pool_);
  kernels::AddInPlace(x, b.branch, int64_t{rows} * hidden_, pool_);
}

}  // namespace tandem::drafter
