#include <algorithm>

#include "common/base/status.h"
#include "common/models/cuda_devices.h"
#include "common/models/decoder.h"
#include "common/models/model.h"
#ifdef TANDEM_HAS_CUDA
#include "common/models/cuda/device_decoder.h"
#endif

namespace tandem::models {
namespace {

absl::Status CheckOption(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("{} is {}, allowed are {} to {}", name, value, low, high);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const formats::Checkpoint& checkpoint,
                                                 const ModelOptions& options, ThreadPool& pool) {
  const formats::ModelConfig& config = checkpoint.config();
  RETURN_IF_ERROR(CheckOption("max_step_tokens", options.max_step_tokens, 1, kMaxStepTokens));
  RETURN_IF_ERROR(CheckOption("max_logits_rows", options.max_logits_rows, 1, kMaxStepTokens));
  RETURN_IF_ERROR(CheckOption("max_taps", options.max_taps, 0, kMaxTaps));
  RETURN_IF_ERROR(CheckOption("max_positions", options.max_positions, 0, config.max_position));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const int64_t head_dim = config.AttentionOf(layer).head_dim;
    if (head_dim <= kernels::kMaxHeadDim) continue;
    return Unimplemented("{}: head_dim is {}, only up to {} is supported", checkpoint.path(), head_dim,
                         kernels::kMaxHeadDim);
  }
  ModelOptions resolved = options;
  resolved.max_logits_rows = std::min(options.max_logits_rows, options.max_step_tokens);
  resolved.max_taps = static_cast<int>(std::min<int64_t>(options.max_taps, config.num_layers + 1));
  if (resolved.max_positions == 0) resolved.max_positions = static_cast<int>(config.max_position);
  if (resolved.cuda_device.has_value()) {
#ifdef TANDEM_HAS_CUDA
    return cuda::LoadDeviceModel(checkpoint, resolved, pool);
#else
    return CudaDevices().status();
#endif
  }
  return Decoder::Create(checkpoint, resolved, pool);
}

}  // namespace tandem::models
