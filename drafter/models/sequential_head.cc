#include "drafter/models/sequential_head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <utility>

#include "common/base/status.h"
#include "common/kernels/math.h"

namespace tandem::drafter {
namespace {

float Sigmoid(float x) { return 1.0f / (1.0f + kernels::Exp(-x)); }

}  // namespace

SequentialHead::SequentialHead(const DraftConfig& config, const DraftModelOptions& options, ThreadPool& pool)
    : pool_(pool),
      type_(config.markov),
      hidden_(static_cast<int32_t>(config.shape.hidden_size)),
      rank_(config.markov_rank),
      block_size_(config.block_size),
      max_requests_(options.max_blocks),
      whole_vocabulary_(options.markov_top_k == 0),
      activation_type_(options.activation_type) {}

absl::StatusOr<std::unique_ptr<SequentialHead>> SequentialHead::Load(const DraftConfig& config,
                                                                     const DraftModelOptions& options,
                                                                     DraftWeightReader& reader,
                                                                     ThreadPool& pool) {
  std::unique_ptr<SequentialHead> head(new SequentialHead(config, options, pool));
  if (config.markov_rank > 0) RETURN_IF_ERROR(head->LoadMarkov(config, reader));
  if (config.has_confidence) RETURN_IF_ERROR(head->LoadConfidence(config, reader));
  RETURN_IF_ERROR(head->Allocate(static_cast<int32_t>(head->w2_.rows())));
  return head;
}

absl::Status SequentialHead::LoadMarkov(const DraftConfig& config, DraftWeightReader& reader) {
  ASSIGN_OR_RETURN(w1_, reader.ReadTokenRows("markov_head.markov_w1.weight"));
  if (whole_vocabulary_) {
    ASSIGN_OR_RETURN(w2_, reader.ReadMatrix("markov_head.markov_w2.weight", reader.draft_rows()));
  } else {
    ASSIGN_OR_RETURN(w2_rows_, reader.ReadTokenRows("markov_head.markov_w2.weight", reader.draft_rows()));
  }
  if (config.markov == MarkovType::kGated) {  // [h ; w]
    const char* const gate = "markov_head.gate_proj.weight";
    ASSIGN_OR_RETURN(from_hidden_, reader.ReadColumns(gate, 0, hidden_));
    ASSIGN_OR_RETURN(from_token_, reader.ReadColumns(gate, hidden_, hidden_ + rank_));
    ASSIGN_OR_RETURN(gate_bias_, reader.ReadFloats("markov_head.gate_proj.bias"));
  }
  if (config.markov == MarkovType::kRnn) {  // [s ; w ; h]
    const char* const joint = "markov_head.joint_proj.weight";
    ASSIGN_OR_RETURN(from_token_, reader.ReadColumns(joint, 0, 2 * rank_));
    ASSIGN_OR_RETURN(from_hidden_, reader.ReadColumns(joint, 2 * rank_, 2 * rank_ + hidden_));
    ASSIGN_OR_RETURN(gate_bias_, reader.ReadFloats("markov_head.joint_proj.bias"));
  }
  return absl::OkStatus();
}

absl::Status SequentialHead::LoadConfidence(const DraftConfig& config, DraftWeightReader& reader) {
  Confidence& confidence = confidence_.emplace();
  ASSIGN_OR_RETURN(confidence.hidden, reader.ReadColumns("confidence_head.proj.weight", 0, hidden_));
  ASSIGN_OR_RETURN(const std::vector<float> bias, reader.ReadFloats("confidence_head.proj.bias"));
  confidence.bias = bias[0];
  if (!config.confidence_with_markov) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<float> weights, reader.ReadFloats("confidence_head.proj.weight"));
  const auto of_w1 = std::span(weights).subspan(hidden_);
  confidence.of_token.resize(w1_.rows());
  constexpr int64_t kTokensPerTile = 1024;
  pool_.ForEachTile(static_cast<int>((w1_.rows() + kTokensPerTile - 1) / kTokensPerTile), [&](int tile) {
    const int64_t end = std::min(w1_.rows(), (tile + 1) * kTokensPerTile);
    for (int64_t v = tile * kTokensPerTile; v < end; ++v) confidence.of_token[v] = w1_.Dot(v, of_w1);
  });
  return absl::OkStatus();
}

absl::Status SequentialHead::Allocate(int32_t draft_vocab) {
  const int64_t requests = max_requests_, rows = requests * block_size_, rank = rank_;
  const int64_t gates = static_cast<int64_t>(gate_bias_.size());
  const bool rnn = type_ == MarkovType::kRnn;
  const std::vector<std::pair<float**, int64_t>> arrays = {
      {&buffers_.from_hidden, rows * gates},
      {&buffers_.confidence, confidence_.has_value() ? rows : 0},
      {&buffers_.embedded, requests * rank * (rnn ? 2 : 1)},
      {&buffers_.product, requests * gates},
      {&buffers_.state, rnn ? requests * rank : 0},
      {&buffers_.latent, requests * rank},
      {&buffers_.bias, requests * draft_vocab},
  };
  std::vector<int64_t> sizes;
  for (const auto& [view, size] : arrays) sizes.push_back(size);
  ASSIGN_OR_RETURN(work_area_, models::WorkArea::Create(sizes));
  for (size_t i = 0; i < arrays.size(); ++i) *arrays[i].first = work_area_.array(static_cast<int>(i));
  try {
    input_ = std::make_unique<kernels::Activations>(max_requests_, std::max(1, 2 * rank_), activation_type_);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("no memory for activations of {} rows of {}", max_requests_, 2 * rank_);
  }
  return absl::OkStatus();
}

void SequentialHead::AppendProducts(std::vector<kernels::GemmOutput>& products) {
  if (!gate_bias_.empty()) products.push_back({&from_hidden_, buffers_.from_hidden});
  if (confidence_.has_value()) products.push_back({&confidence_->hidden, buffers_.confidence});
}

void SequentialHead::Begin(int32_t num_requests) {
  if (type_ == MarkovType::kRnn) std::fill_n(buffers_.state, int64_t{num_requests} * rank_, 0.0f);
}

void SequentialHead::Step(int32_t k, std::span<const int32_t> previous) {
  const auto num_requests = static_cast<int32_t>(previous.size());
  const auto rank = static_cast<size_t>(rank_);
  const auto embed = [&](float* out, int64_t stride) {
    for (int32_t r = 0; r < num_requests; ++r) w1_.Row(previous[r], {out + r * stride, rank});
  };
  switch (type_) {
    case MarkovType::kNone:
      return;
    case MarkovType::kVanilla:
      embed(buffers_.latent, rank_);
      return;
    case MarkovType::kGated:
      embed(buffers_.embedded, rank_);
      return StepGated(k, num_requests);
    case MarkovType::kRnn:
      embed(buffers_.embedded + rank_, 2 * rank_);  // behind the state
      return StepRnn(k, num_requests);
  }
}

void SequentialHead::StepGated(int32_t k, int32_t num_requests) {
  const Buffers& b = buffers_;
  input_->Load({b.embedded, static_cast<size_t>(num_requests) * rank_}, num_requests, rank_, pool_);
  kernels::Gemm(*input_, from_token_, b.product, rank_, pool_);
  for (int64_t r = 0; r < num_requests; ++r) {
    const float* const from_hidden = b.from_hidden + (r * block_size_ + k) * rank_;
    for (int32_t i = 0; i < rank_; ++i) {
      const float gate = Sigmoid(from_hidden[i] + b.product[r * rank_ + i] + gate_bias_[i]);
      b.latent[r * rank_ + i] = gate * b.embedded[r * rank_ + i];
    }
  }
}

void SequentialHead::StepRnn(int32_t k, int32_t num_requests) {
  const Buffers& b = buffers_;
  const int64_t rank = rank_;
  for (int64_t r = 0; r < num_requests; ++r) {
    std::memcpy(b.embedded + r * 2 * rank, b.state + r * rank, rank * sizeof(float));
  }
  input_->Load({b.embedded, static_cast<size_t>(num_requests * 2 * rank)}, num_requests, 2 * rank_, pool_);
  kernels::Gemm(*input_, from_token_, b.product, 3 * rank, pool_);
  for (int64_t r = 0; r < num_requests; ++r) {
    const float* const from_hidden = b.from_hidden + (r * block_size_ + k) * 3 * rank;
    const float* const from_token = b.product + r * 3 * rank;
    const auto sum = [&](int64_t i) { return from_hidden[i] + from_token[i] + gate_bias_[i]; };
    for (int64_t i = 0; i < rank; ++i) {
      const float gate = Sigmoid(sum(i));
      float& state = b.state[r * rank + i];
      b.latent[r * rank + i] = std::tanh(sum(2 * rank + i));
      state = gate * state + (1 - gate) * std::tanh(sum(rank + i));
    }
  }
}

float* SequentialHead::BiasOfAll(int32_t num_requests) {
  input_->Load({buffers_.latent, static_cast<size_t>(num_requests) * rank_}, num_requests, rank_, pool_);
  kernels::Gemm(*input_, w2_, buffers_.bias, 0, pool_);
  return buffers_.bias;
}

float SequentialHead::Bias(int32_t request, int32_t row) const {
  return w2_rows_.Dot(row, {buffers_.latent + int64_t{request} * rank_, static_cast<size_t>(rank_)});
}

float SequentialHead::ConfidenceLogit(int32_t request, int32_t k, int32_t previous) const {
  const float of_hidden = buffers_.confidence[int64_t{request} * block_size_ + k];
  const float of_token = confidence_->of_token.empty() ? 0.0f : confidence_->of_token[previous];
  return of_hidden + of_token + confidence_->bias;
}

}  // namespace tandem::drafter
