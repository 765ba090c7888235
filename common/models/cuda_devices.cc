#include "common/models/cuda_devices.h"

#include "common/base/status.h"
#ifdef TANDEM_HAS_CUDA
#include "common/kernels/cuda/device.h"
#endif

namespace tandem::models {

#ifdef TANDEM_HAS_CUDA

absl::StatusOr<std::vector<std::string>> CudaDevices() {
  ASSIGN_OR_RETURN(const auto devices, kernels::cuda::Device::List());
  std::vector<std::string> lines;
  for (const kernels::cuda::DeviceFacts& device : devices) {
    lines.push_back(fmt::format("cuda:{}: {}, {}, {} MiB", lines.size(), device.name, device.architecture,
                                device.memory_bytes >> 20));
  }
  return lines;
}

#else

absl::StatusOr<std::vector<std::string>> CudaDevices() {
  return Unimplemented(
      "no CUDA device: this build has no CUDA backend (cmake --preset cuda builds it, with nvcc)");
}

#endif

}  // namespace tandem::models
