// Runs sequences through a model in tests: owns cache and block tables, puts steps together, copies results.
//
//   ModelDriver driver(*model, 64);
//   ModelDriver::Sequence a;
//   const auto logits = driver.Step({{.sequence = &a, .tokens = prompt, .logits_at = {2, 5}}})[0].logits;
//
// All blocks are poisoned at first, so that whatever is read without having been written shows as NaN; they
// are handed out in a scattered order.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "common/models/model.h"

namespace tandem::models {

class ModelDriver {
 public:
  struct Sequence {
    int32_t position = 0;  // of the next row; set it back to overwrite
    std::vector<int32_t> blocks = {};
  };

  // A sequence's part of a step.
  struct Piece {
    Sequence* sequence;
    std::vector<int32_t> tokens;
    std::vector<int32_t> logits_at;  // which of `tokens`, ascending
  };

  struct Result {
    std::vector<std::vector<float>> logits;  // per logits_at [V]
    std::vector<std::vector<float>> taps;    // per tap [tokens, H]
  };

  ModelDriver(Model& model, int num_blocks) : model_(model) {
    auto cache = model.CreateKvCache(num_blocks);
    if (!cache.ok()) {
      ADD_FAILURE() << cache.status();
      std::abort();
    }
    cache_ = *std::move(cache);
    // An odd stride walks over a power of two of blocks once; others are skipped.
    int scattered = 1;
    while (scattered < num_blocks) scattered *= 2;
    for (int i = 0; i < scattered; ++i) {
      const int block = (i * 37 + 11) % scattered;
      if (block < num_blocks) free_blocks_.push_back(block);
    }
    for (int block = 0; block < num_blocks; ++block) cache_->Poison(block);
  }

  std::vector<Result> Step(const std::vector<Piece>& pieces, const std::vector<int32_t>& taps = {}) {
    std::vector<int32_t> tokens, positions, logits_rows;
    std::vector<kernels::SequenceRows> sequences;
    for (const Piece& piece : pieces) {
      Sequence& sequence = *piece.sequence;
      const int32_t first_row = static_cast<int32_t>(tokens.size());
      const int32_t num_rows = static_cast<int32_t>(piece.tokens.size());
      Grow(sequence, sequence.position + num_rows);
      sequences.push_back({first_row, num_rows, sequence.position, sequence.blocks});
      tokens.insert(tokens.end(), piece.tokens.begin(), piece.tokens.end());
      for (int32_t i = 0; i < num_rows; ++i) positions.push_back(sequence.position + i);
      for (const int32_t at : piece.logits_at) logits_rows.push_back(first_row + at);
      sequence.position += num_rows;
    }
    model_.Forward({tokens, positions, sequences, logits_rows, taps}, *cache_, outputs_);
    return Split(pieces);
  }

  // All of `tokens` in chunks of `chunk` rows with logits (if wanted) and taps everywhere, joined.
  Result Run(Sequence& sequence, std::span<const int32_t> tokens, int chunk, bool with_logits = true,
             const std::vector<int32_t>& taps = {}) {
    Result all;
    all.taps.resize(taps.size());
    for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
      const auto part = tokens.subspan(begin, std::min<size_t>(chunk, tokens.size() - begin));
      Piece piece = {&sequence, {part.begin(), part.end()}, {}};
      if (with_logits) {
        piece.logits_at.resize(part.size());
        std::iota(piece.logits_at.begin(), piece.logits_at.end(), 0);
      }
      Result result = Step({piece}, taps)[0];
      for (auto& row : result.logits) all.logits.push_back(std::move(row));
      for (size_t i = 0; i < taps.size(); ++i) {
        all.taps[i].insert(all.taps[i].end(), result.taps[i].begin(), result.taps[i].end());
      }
    }
    return all;
  }

  // Greedy continuation, token by token, after `prompt` in one piece.
  std::vector<int32_t> Greedy(std::span<const int32_t> prompt, int num_tokens) {
    Sequence sequence;
    std::vector<int32_t> ids;
    std::vector<int32_t> next(prompt.begin(), prompt.end());
    while (static_cast<int>(ids.size()) < num_tokens) {
      const auto result = Step({{&sequence, next, {static_cast<int32_t>(next.size()) - 1}}})[0];
      ids.push_back(Argmax(result.logits[0]));
      next = {ids.back()};
    }
    Release(sequence);
    return ids;
  }

  // Gives the blocks back, poisoned again.
  void Release(Sequence& sequence) {
    for (const int32_t block : sequence.blocks) {
      cache_->Poison(block);
      free_blocks_.push_back(block);
    }
    sequence = {};
  }

  static int32_t Argmax(std::span<const float> logits) {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
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

  std::vector<Result> Split(const std::vector<Piece>& pieces) const {
    const size_t vocab = model_.config().vocab_size, hidden = model_.config().hidden_size;
    std::vector<Result> results;
    auto logits = outputs_.logits;
    size_t row = 0;
    for (const Piece& piece : pieces) {
      Result& result = results.emplace_back();
      for (size_t i = 0; i < piece.logits_at.size(); ++i) {
        result.logits.emplace_back(logits.begin(), logits.begin() + vocab);
        logits = logits.subspan(vocab);
      }
      for (const auto tap : outputs_.taps) {
        const auto part = tap.subspan(row * hidden, piece.tokens.size() * hidden);
        result.taps.emplace_back(part.begin(), part.end());
      }
      row += piece.tokens.size();
    }
    EXPECT_TRUE(logits.empty());
    return results;
  }

  Model& model_;
  std::unique_ptr<kernels::KvCache> cache_;
  std::vector<int32_t> free_blocks_;
  Outputs outputs_;
};

}  // namespace tandem::models
