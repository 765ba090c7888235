// A tiny deterministic draft model for tests, whose drafts depend on every bit of bookkeeping around it.
//
// AppendContext writes a hash of (position, row, token, token behind) into the KV cache through the block
// table; Draft reads all positions up to the anchor back and hashes what it read, and scribbles over the
// positions behind. A wrong block, a stale position, a block shared too early or overwritten too soon shows
// in the drafts. Calls are checked as draft_model.h promises them.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/base/status.h"
#include "drafter/models/draft_model.h"

namespace tandem::drafter::testing {

class FakeDraftModel : public DraftModel {
 public:
  static constexpr int32_t kVocab = 1000;
  static constexpr int32_t kWidth = 3;

  explicit FakeDraftModel(int32_t max_context_rows = 64, int32_t max_blocks = 8, int32_t max_positions = 0)
      : max_context_rows_(max_context_rows), max_blocks_(max_blocks) {
    info_.algorithm = info_.name = "fake";
    info_.vocab_size = kVocab;
    info_.block_size = 5;
    info_.has_confidence = true;
    info_.max_positions = max_positions;
    info_.projection.width = kWidth;
    info_.projection.taps = {0};
    info_.projection.fc.assign(kWidth * 4, 0.5f);
  }

  const DraftModelInfo& info() const override { return info_; }
  kernels::KvLayout kv_layout() const override {
    return kernels::KvLayout::Create(kernels::KvType::kF32, {{1, 8}});
  }
  int32_t max_context_rows() const override { return max_context_rows_; }
  int32_t max_blocks() const override { return max_blocks_; }

  void AppendContext(std::span<const ContextRows> rows, kernels::KvCache& kv) override {
    int32_t total = 0;
    for (const ContextRows& part : rows) {
      TANDEM_CHECK(part.num_rows > 0 && part.rows != nullptr);
      TANDEM_CHECK(static_cast<int32_t>(part.tokens.size()) == part.num_rows + 1);
      total += part.num_rows;
      for (int32_t i = 0; i < part.num_rows; ++i) {
        const int32_t position = part.first_position + i;
        uint64_t hash = Mix(static_cast<uint64_t>(position));
        for (int32_t j = 0; j < kWidth; ++j) hash = Mix(hash ^ Bits(part.rows[i * kWidth + j]));
        hash = Mix(hash ^ static_cast<uint64_t>(part.tokens[i]));
        Write(kv, part.blocks, position, Mix(hash ^ static_cast<uint64_t>(part.tokens[i + 1])));
      }
    }
    TANDEM_CHECK(total > 0 && total <= max_context_rows_);
    ++num_appends;
    rows_appended += total;
  }

  void Draft(const DrawMode& mode, std::span<const DraftRequest> requests, kernels::KvCache& kv,
             std::vector<DraftedBlock>& drafts) override {
    TANDEM_CHECK(!requests.empty() && static_cast<int32_t>(requests.size()) <= max_blocks_);
    drafts.assign(requests.size(), {});
    // All scribbling first: a block that two sequences write by mistake is seen by both.
    for (const DraftRequest& request : requests) {
      for (int32_t i = 0; i < info_.block_size; ++i)
        Write(kv, request.blocks, request.start + i, Mix(request.id + 77 * i));
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const DraftRequest& request = requests[i];
      TANDEM_CHECK(static_cast<int32_t>(request.context.size()) == request.start + 1);
      uint64_t hash = Mix(request.sampling.seed);
      for (int32_t p = 0; p < request.start; ++p) hash = Mix(hash ^ Read(kv, request.blocks, p));
      for (const int32_t token : request.context) hash = Mix(hash ^ static_cast<uint64_t>(token));
      for (int32_t j = 0; j < info_.block_size; ++j) {
        drafts[i].tokens.push_back(static_cast<int32_t>(Mix(hash + j) % kVocab));
        drafts[i].confidence_logits.push_back(static_cast<float>(j));
        if (mode.acceptance == speculation::AcceptanceMode::kRejection)
          drafts[i].distributions.push_back({{drafts[i].tokens.back(), 1.0f}});
      }
    }
    ++num_drafts;
    batch_sizes.push_back(static_cast<int32_t>(requests.size()));
  }

  int64_t num_appends = 0, rows_appended = 0, num_drafts = 0;
  std::vector<int32_t> batch_sizes;

 private:
  static uint64_t Mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  static uint64_t Bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
  }
  static std::byte* Place(kernels::KvCache& kv, std::span<const int32_t> blocks, int32_t position) {
    const size_t index = position / kernels::kKvBlockPositions;
    TANDEM_CHECK(index < blocks.size());
    TANDEM_CHECK(blocks[index] >= 0 && blocks[index] < kv.num_blocks());
    return kv.block(blocks[index]) + (position % kernels::kKvBlockPositions) * sizeof(uint64_t);
  }
  static void Write(kernels::KvCache& kv, std::span<const int32_t> blocks, int32_t position, uint64_t value) {
    std::memcpy(Place(kv, blocks, position), &value, sizeof value);
  }
  static uint64_t Read(kernels::KvCache& kv, std::span<const int32_t> blocks, int32_t position) {
    uint64_t value;
    std::memcpy(&value, Place(kv, blocks, position), sizeof value);
    return value;
  }

  DraftModelInfo info_;
  const int32_t max_context_rows_, max_blocks_;
};

}  // namespace tandem::drafter::testing
