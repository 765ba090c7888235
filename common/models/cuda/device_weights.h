// decoder_weights.h on a CUDA device: matrices in f32 or bf16, vectors in f32.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/formats/checkpoint.h"
#include "common/kernels/cuda/device.h"
#include "common/kernels/cuda/device_matrix.h"
#include "common/models/decoder_weights.h"
#include "common/models/model.h"

namespace tandem::models::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

using kernels::cuda::TANDEM_CUDA_NAMESPACE::Device;
using kernels::cuda::TANDEM_CUDA_NAMESPACE::DeviceBuffer;
using kernels::cuda::TANDEM_CUDA_NAMESPACE::DeviceMatrix;

// What is absent has no bytes.
class DeviceVector {
 public:
  DeviceVector() = default;
  static absl::StatusOr<DeviceVector> Create(const std::vector<float>& values, Device& device);
  bool empty() const { return data_.bytes() == 0; }
  const float* data() const { return data_.as<const float>(); }

 private:
  DeviceBuffer data_;
};

// As DecoderLayerWeights, field by field.
struct DeviceLayerWeights {
  DeviceVector attention_norm;
  DeviceMatrix q, k, v;
  DeviceVector q_bias, k_bias, v_bias;
  DeviceVector q_norm, k_norm;
  DeviceMatrix o;
  DeviceVector post_attention_norm;

  DeviceVector feed_forward_norm;
  DeviceMatrix gate, up;
  DeviceMatrix down;
  DeviceVector post_feed_forward_norm;
};

struct DeviceWeights {
  DeviceMatrix embedding;
  std::vector<DeviceLayerWeights> layers;
  DeviceVector final_norm;
  DeviceMatrix untied_head;
  bool tied = false;
  std::string type_names;
  int64_t bytes = 0;

  const DeviceMatrix& head() const { return tied ? embedding : untied_head; }

  // By way of the host's packed weights, which take as much memory there while it runs.
  static absl::StatusOr<DeviceWeights> Load(const formats::Checkpoint& checkpoint,
                                            const ModelOptions& options, ThreadPool& pool, Device& device);
};

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::models::cuda
