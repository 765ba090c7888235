// Runs sequences through a draft model in tests: owns cache and block tables. All blocks are poisoned at
// first, so that whatever is read without having been written shows as NaN; they are handed out scattered.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "drafter/models/draft_model.h"
#include "drafter/models/dspark.h"
#include "drafter/models/eagle3.h"

namespace tandem::drafter {

class DraftDriver {
 public:
  struct Sequence {
    std::vector<int32_t> tokens = {};  // of all positions with a row, and the anchor
    std::vector<int32_t> blocks = {};
    speculation::DraftSampling sampling = {.seed = 0, .temperature = 0};
    uint32_t epoch = 0, round = 0;

    int32_t start() const { return static_cast<int32_t>(tokens.size()) - 1; }
  };

  DraftDriver(DraftModel& model, int num_blocks) : model_(model) {
    auto cache = kernels::KvCache::Create(model.kv_layout(), num_blocks);
    if (!cache.ok()) {
      ADD_FAILURE() << cache.status();
      std::abort();
    }
    cache_ = *std::move(cache);
    for (int i = 0; i < num_blocks; ++i) {
      cache_->Poison(i);
      free_blocks_.push_back(i);
    }
    std::reverse(free_blocks_.begin(), free_blocks_.begin() + num_blocks / 2);
  }

  // Rows of the positions behind those that the sequence has, and their tokens with the one behind: the first
  // replaces the anchor. In calls of at most `piece` rows.
  void Append(Sequence& sequence, std::span<const float> rows, std::span<const int32_t> tokens,
              int32_t piece = 1 << 30) {
    const int32_t width = model_.info().projection.width;
    const auto count = static_cast<int32_t>(rows.size() / width);
    ASSERT_EQ(tokens.size(), size_t(count) + 1);
    const int32_t first = std::max(0, sequence.start());
    sequence.tokens.resize(first);
    sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
    Grow(sequence, first + count + model_.info().block_size);
    piece = std::min(piece, model_.max_context_rows());
    for (int32_t at = 0; at < count; at += piece) {
      const int32_t n = std::min(piece, count - at);
      const ContextRows part = {sequence.blocks, first + at, n, rows.data() + int64_t{at} * width,
                                tokens.subspan(at, n + 1)};
      model_.AppendContext({&part, 1}, *cache_);
    }
  }

  static DraftRequest RequestOf(const Sequence& sequence) {
    DraftRequest request;
    request.blocks = sequence.blocks;
    request.context = sequence.tokens;
    request.start = sequence.start();
    request.epoch = sequence.epoch;
    request.round = sequence.round;
    request.sampling = sequence.sampling;
    return request;
  }

  std::vector<DraftedBlock> Draft(const std::vector<const Sequence*>& sequences, const DrawMode& mode = {}) {
    std::vector<DraftRequest> requests;
    for (const Sequence* sequence : sequences) requests.push_back(RequestOf(*sequence));
    std::vector<DraftedBlock> drafts;
    model_.Draft(mode, requests, *cache_, drafts);
    return drafts;
  }

  DraftedBlock DraftWith(const TokenDrawer& drawer, const Sequence& sequence) {
    const DraftRequest request = RequestOf(sequence);
    std::vector<DraftedBlock> drafts;
    if (auto* const dspark = dynamic_cast<DSpark*>(&model_); dspark != nullptr) {
      dspark->DraftWith(drawer, false, {&request, 1}, *cache_, drafts);
    } else {
      dynamic_cast<Eagle3&>(model_).DraftWith(drawer, false, {&request, 1}, *cache_, drafts);
    }
    return drafts[0];
  }

  // K or V of the first `count` positions [count, kv_heads, head_dim].
  std::vector<float> Keys(const Sequence& sequence, int layer, int32_t count) {
    return KeysAndValues(sequence, layer, count).first;
  }
  std::vector<float> Values(const Sequence& sequence, int layer, int32_t count) {
    return KeysAndValues(sequence, layer, count).second;
  }

 private:
  void Grow(Sequence& sequence, int32_t end) {
    const size_t wanted = (end + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
    while (sequence.blocks.size() < wanted) {
      if (free_blocks_.empty()) {
        ADD_FAILURE() << "the test's cache is too small";
        std::abort();
      }
      sequence.blocks.push_back(free_blocks_.back());
      free_blocks_.pop_back();
    }
  }

  std::pair<std::vector<float>, std::vector<float>> KeysAndValues(const Sequence& sequence, int layer,
                                                                  int32_t count) const {
    const auto [heads, head_dim] = cache_->layout().layers[layer];
    const size_t width = size_t(heads) * head_dim;
    std::vector<float> k(count * width), v(count * width);
    for (int32_t p = 0; p < count; ++p) {
      kernels::ReadKv(*cache_, layer, sequence.blocks, p, k.data() + p * width, v.data() + p * width);
    }
    return {k, v};
  }

  DraftModel& model_;
  std::unique_ptr<kernels::KvCache> cache_;
  std::vector<int32_t> free_blocks_;
};

}  // namespace tandem::drafter
