#include "common/models/decoder_batch.h"

#include <utility>

#include "common/base/status.h"

namespace tandem::models {

kernels::KvLayout KvLayoutOf(const formats::ModelConfig& config, kernels::KvType type) {
  std::vector<kernels::KvLayerShape> shapes;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.HasOwnKv(layer)) continue;
    const formats::AttentionConfig& attention = config.AttentionOf(layer);
    shapes.push_back({static_cast<int>(attention.num_kv_heads), static_cast<int>(attention.head_dim)});
  }
  return kernels::KvLayout::Create(type, std::move(shapes));
}

std::vector<int> KvLayersOf(const formats::ModelConfig& config) {
  std::vector<int> kv_layers;
  int next = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    kv_layers.push_back(config.HasOwnKv(layer) ? next++ : kv_layers[config.layers[layer].kv_layer]);
  }
  return kv_layers;
}

void CheckBatch(const Batch& batch, const formats::ModelConfig& config, const ModelOptions& options,
                const kernels::KvLayout& kv_layout, const kernels::KvCache& cache) {
  const int tokens = static_cast<int>(batch.tokens.size());
  TANDEM_CHECK(tokens >= 1 && tokens <= options.max_step_tokens);
  TANDEM_CHECK(batch.positions.size() == batch.tokens.size());
  for (const int32_t token : batch.tokens) TANDEM_CHECK(token >= 0 && token < config.vocab_size);

  int row = 0;
  for (const kernels::SequenceRows& sequence : batch.sequences) {
    TANDEM_CHECK(sequence.first_row == row && sequence.num_rows >= 1 && sequence.num_rows <= tokens - row);
    const int64_t end = int64_t{sequence.first_position} + sequence.num_rows;
    TANDEM_CHECK(sequence.first_position >= 0 && end <= options.max_positions);
    for (int i = 0; i < sequence.num_rows; ++i) {
      TANDEM_CHECK(batch.positions[row + i] == sequence.first_position + i);
    }
    const int64_t num_blocks = (end + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions;
    TANDEM_CHECK(static_cast<int64_t>(sequence.blocks.size()) >= num_blocks);
    for (const int32_t block : sequence.blocks.first(num_blocks)) {
      TANDEM_CHECK(block >= 0 && block < cache.num_blocks());
    }
    row += sequence.num_rows;
  }
  TANDEM_CHECK(row == tokens);
  TANDEM_CHECK(cache.layout().type == options.kv_type &&
               cache.layout().block_bytes == kv_layout.block_bytes &&
               cache.layout().layer_offset == kv_layout.layer_offset);

  TANDEM_CHECK(static_cast<int>(batch.logits_rows.size()) <= options.max_logits_rows);
  int previous = -1;
  for (const int32_t logits_row : batch.logits_rows) {
    TANDEM_CHECK(logits_row > previous && logits_row < tokens);
    previous = logits_row;
  }
  TANDEM_CHECK(static_cast<int>(batch.taps.size()) <= options.max_taps);
  previous = -2;
  for (const int32_t layer : batch.taps) {
    TANDEM_CHECK(layer > previous && layer < config.num_layers);
    previous = layer;
  }
}

}  // namespace tandem::models
