// A tiny deterministic model for tests, whose logits depend on every bit of bookkeeping around it.
//
// Forward writes (token, position) of each row into the KV cache through the block table, reads back all
// positions up to the row's own, and hashes what it read: a wrong block, a stale position, a block shared too
// early or overwritten too soon shows in the text. Rows are checked as model.h promises them.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/models/model.h"

namespace tandem::verifier::testing {

class FakeModel : public models::Model {
 public:
  explicit FakeModel(int max_step_tokens = 512, int max_logits_rows = 256, int context = 512) {
    config_.vocab_size = kVocab;
    config_.hidden_size = kHidden;
    config_.num_layers = 2;
    options_.max_step_tokens = max_step_tokens;
    options_.max_logits_rows = max_logits_rows;
    options_.max_positions = context;
    logits_.resize(static_cast<size_t>(max_logits_rows) * kVocab);
    row_hash_.resize(max_step_tokens);
  }

  static constexpr int kVocab = 40;
  static constexpr int kHidden = 8;

  // What a tap shows of the last of `tokens`, with those before it: small whole numbers, exact in bf16.
  static std::array<float, kHidden> TapOf(std::span<const int32_t> tokens) {
    uint64_t hash = 0;
    for (size_t p = 0; p < tokens.size(); ++p) hash = Mix(hash ^ Value(static_cast<int32_t>(p), tokens[p]));
    return TapOfHash(hash);
  }

  const formats::ModelConfig& config() const override { return config_; }
  kernels::KvLayout kv_layout() const override {
    return kernels::KvLayout::Create(kernels::KvType::kF32, {{1, 8}});
  }
  const models::ModelOptions& options() const override { return options_; }
  std::string NumericsId() const override { return "fake-1"; }
  int64_t WeightBytes() const override { return 0; }

  void Forward(const models::Batch& batch, kernels::KvCache& cache, models::Outputs& outputs) override {
    TANDEM_CHECK(batch.tokens.size() <= static_cast<size_t>(options_.max_step_tokens));
    TANDEM_CHECK(batch.logits_rows.size() <= static_cast<size_t>(options_.max_logits_rows));
    TANDEM_CHECK(batch.tokens.size() == batch.positions.size());
    int32_t next_row = 0;
    for (const kernels::SequenceRows& rows : batch.sequences) {
      TANDEM_CHECK(rows.first_row == next_row && rows.num_rows > 0);
      next_row += rows.num_rows;
      for (int32_t i = 0; i < rows.num_rows; ++i) {
        TANDEM_CHECK(batch.positions[rows.first_row + i] == rows.first_position + i);
        Write(cache, rows, rows.first_position + i, batch.tokens[rows.first_row + i]);
      }
    }
    TANDEM_CHECK(next_row == static_cast<int32_t>(batch.tokens.size()));
    // All writes are done: a block that two sequences write by mistake is seen by both.
    for (const kernels::SequenceRows& rows : batch.sequences) {
      uint64_t hash = 0;
      for (int32_t p = 0; p < rows.first_position + rows.num_rows; ++p) {
        hash = Mix(hash ^ Read(cache, rows, p));
        if (p >= rows.first_position) row_hash_[rows.first_row + p - rows.first_position] = hash;
      }
    }
    for (size_t i = 0; i < batch.logits_rows.size(); ++i) {
      TANDEM_CHECK(i == 0 || batch.logits_rows[i] > batch.logits_rows[i - 1]);
      for (int v = 0; v < kVocab; ++v) {
        const uint64_t bits = Mix(row_hash_[batch.logits_rows[i]] + v);
        logits_[i * kVocab + v] = static_cast<float>(bits >> 40) / (1 << 24) * 8.0f - 4.0f;
      }
    }
    outputs.logits = {logits_.data(), batch.logits_rows.size() * kVocab};
    outputs.taps.clear();
    taps_.resize(batch.taps.size() * batch.tokens.size() * kHidden);
    for (size_t l = 0; l < batch.taps.size(); ++l) {
      const std::span<float> tap(taps_.data() + l * batch.tokens.size() * kHidden,
                                 batch.tokens.size() * kHidden);
      for (size_t row = 0; row < batch.tokens.size(); ++row) {
        std::ranges::copy(TapOfHash(row_hash_[row]), tap.begin() + row * kHidden);
      }
      outputs.taps.push_back(tap);
    }
    ++num_steps;
    num_rows += static_cast<int64_t>(batch.tokens.size());
    if (poison_token >= 0 && std::ranges::find(batch.tokens, poison_token) != batch.tokens.end())
      PoisonLogits(batch);
  }

  // A sequence in whose rows this token occurs gets NaN logits.
  int32_t poison_token = -1;
  int64_t num_steps = 0, num_rows = 0;

 private:
  static uint64_t Mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }
  static uint64_t Value(int32_t position, int32_t token) {
    return (uint64_t{static_cast<uint32_t>(position)} << 32) | static_cast<uint32_t>(token);
  }
  static std::array<float, kHidden> TapOfHash(uint64_t hash) {
    std::array<float, kHidden> tap;
    for (int i = 0; i < kHidden; ++i) tap[i] = static_cast<float>(hash >> (8 * i) & 0x7f);
    return tap;
  }
  static std::byte* Place(kernels::KvCache& cache, const kernels::SequenceRows& rows, int32_t position) {
    const size_t index = position / kernels::kKvBlockPositions;
    TANDEM_CHECK(index < rows.blocks.size());
    TANDEM_CHECK(rows.blocks[index] >= 0 && rows.blocks[index] < cache.num_blocks());
    return cache.block(rows.blocks[index]) + (position % kernels::kKvBlockPositions) * sizeof(uint64_t);
  }
  static void Write(kernels::KvCache& cache, const kernels::SequenceRows& rows, int32_t position,
                    int32_t token) {
    TANDEM_CHECK(token >= 0 && token < kVocab);
    const uint64_t value = Value(position, token);
    std::memcpy(Place(cache, rows, position), &value, sizeof(value));
  }
  static uint64_t Read(kernels::KvCache& cache, const kernels::SequenceRows& rows, int32_t position) {
    uint64_t value;
    std::memcpy(&value, Place(cache, rows, position), sizeof(value));
    return value;
  }
  void PoisonLogits(const models::Batch& batch) {
    for (const kernels::SequenceRows& rows : batch.sequences) {
      const auto tokens = batch.tokens.subspan(rows.first_row, rows.num_rows);
      if (std::ranges::find(tokens, poison_token) == tokens.end()) continue;
      for (size_t i = 0; i < batch.logits_rows.size(); ++i) {
        if (batch.logits_rows[i] < rows.first_row || batch.logits_rows[i] >= rows.first_row + rows.num_rows)
          continue;
        std::fill_n(logits_.begin() + i * kVocab, kVocab, std::numeric_limits<float>::quiet_NaN());
      }
    }
  }

  formats::ModelConfig config_;
  models::ModelOptions options_;
  std::vector<float> logits_;
  std::vector<uint64_t> row_hash_;
  std::vector<float> taps_;
};

}  // namespace tandem::verifier::testing
