#include "common/kernels/cuda/gemm.h"

#include "common/base/status.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

int BucketTokens(int tokens) {
  if (tokens > 64) return (tokens + 63) / 64 * 64;
  int bucket = 1;
  while (bucket < tokens) bucket *= 2;
  return bucket;
}

absl::StatusOr<DeviceActivations> DeviceActivations::Create(int max_tokens, int max_cols, ActivationType type,
                                                            Device& device) {
  TANDEM_CHECK(type != ActivationType::kInt8);
  DeviceActivations activations;
  activations.type_ = type;
  if (type == ActivationType::kF32) return activations;
  const int64_t size = int64_t{BucketTokens(max_tokens)} * max_cols;
  ASSIGN_OR_RETURN(activations.rounded_, device.Allocate(size * sizeof(float)));
  ASSIGN_OR_RETURN(activations.halves_, device.Allocate(size * sizeof(uint16_t)));
  return activations;
}

void Gemm(const DeviceActivations& x, const DeviceMatrix& w, float* y, LibraryGemm* library, Device& device) {
  TANDEM_CHECK(x.cols() == w.cols());
  if (library != nullptr && LibraryGemm::Takes(x, w) && library->Run(x, w, y)) return;
  PlainGemm(x, w, y, device);
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
