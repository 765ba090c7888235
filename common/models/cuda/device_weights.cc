#include "common/models/cuda/device_weights.h"

#include <utility>

#include "common/base/status.h"

namespace tandem::models::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

// Copies what is there and keeps count.
class Uploader {
 public:
  explicit Uploader(Device& device) : device_(device) {}

  absl::Status Copy(const kernels::Matrix& from, DeviceMatrix& to) {
    if (from.rows() == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(to, DeviceMatrix::Create(from, device_));
    bytes_ += to.bytes();
    return absl::OkStatus();
  }
  absl::Status Copy(const std::vector<float>& from, DeviceVector& to) {
    if (from.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(to, DeviceVector::Create(from, device_));
    bytes_ += static_cast<int64_t>(from.size() * sizeof(float));
    return absl::OkStatus();
  }

  absl::Status Copy(const DecoderLayerWeights& from, DeviceLayerWeights& to) {
    RETURN_IF_ERROR(Copy(from.attention_norm, to.attention_norm));
    RETURN_IF_ERROR(Copy(from.q, to.q));
    RETURN_IF_ERROR(Copy(from.k, to.k));
    RETURN_IF_ERROR(Copy(from.v, to.v));
    RETURN_IF_ERROR(Copy(from.q_bias, to.q_bias));
    RETURN_IF_ERROR(Copy(from.k_bias, to.k_bias));
    RETURN_IF_ERROR(Copy(from.v_bias, to.v_bias));
    RETURN_IF_ERROR(Copy(from.q_norm, to.q_norm));
    RETURN_IF_ERROR(Copy(from.k_norm, to.k_norm));
    RETURN_IF_ERROR(Copy(from.o, to.o));
    RETURN_IF_ERROR(Copy(from.post_attention_norm, to.post_attention_norm));
    RETURN_IF_ERROR(Copy(from.feed_forward_norm, to.feed_forward_norm));
    RETURN_IF_ERROR(Copy(from.gate, to.gate));
    RETURN_IF_ERROR(Copy(from.up, to.up));
    RETURN_IF_ERROR(Copy(from.down, to.down));
    return Copy(from.post_feed_forward_norm, to.post_feed_forward_norm);
  }

  int64_t bytes() const { return bytes_; }

 private:
  Device& device_;
  int64_t bytes_ = 0;
};

}  // namespace

absl::StatusOr<DeviceVector> DeviceVector::Create(const std::vector<float>& values, Device& device) {
  DeviceVector vector;
  ASSIGN_OR_RETURN(vector.data_, device.AllocateCopy(values.data(), values.size() * sizeof(float)));
  return vector;
}

absl::StatusOr<DeviceWeights> DeviceWeights::Load(const formats::Checkpoint& checkpoint,
                                                  const ModelOptions& options, ThreadPool& pool,
                                                  Device& device) {
  ASSIGN_OR_RETURN(DecoderWeights host, DecoderWeights::Load(checkpoint, options, pool));
  DeviceWeights weights;
  Uploader uploader(device);
  RETURN_IF_ERROR(uploader.Copy(host.embedding, weights.embedding));
  for (DecoderLayerWeights& layer : host.layers) {
    RETURN_IF_ERROR(uploader.Copy(layer, weights.layers.emplace_back()));
    layer = {};
  }
  RETURN_IF_ERROR(uploader.Copy(host.final_norm, weights.final_norm));
  RETURN_IF_ERROR(uploader.Copy(host.untied_head, weights.untied_head));
  device.Synchronize();
  weights.tied = host.tied;
  weights.type_names = host.type_names;
  weights.bytes = uploader.bytes();
  return weights;
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::models::cuda
