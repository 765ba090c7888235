// What decoders share whatever computes them: which layer reads whose K and V, and the rules of a batch.
#pragma once

#include <vector>

#include "common/formats/model_config.h"
#include "common/kernels/kv_cache.h"
#include "common/models/model.h"

namespace tandem::models {

// A layer for each that has K and V of its own.
kernels::KvLayout KvLayoutOf(const formats::ModelConfig& config, kernels::KvType type);

// Of each layer, the layer of KvLayoutOf that it reads.
std::vector<int> KvLayersOf(const formats::ModelConfig& config);

// Ends the process if the batch breaks the rules of model.h or is beyond `options`, or if the cache is not of
// `kv_layout`.
void CheckBatch(const Batch& batch, const formats::ModelConfig& config, const ModelOptions& options,
                const kernels::KvLayout& kv_layout, const kernels::KvCache& cache);

}  // namespace tandem::models
