// What the build and the machine have of CUDA.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::models {

// A line for each device that models may be loaded on: "cuda:0: NVIDIA H100 80GB HBM3, sm_90, 81079 MiB".
// kUnimplemented if the build has no CUDA backend, kFailedPrecondition saying why no device is to be had.
absl::StatusOr<std::vector<std::string>> CudaDevices();

}  // namespace tandem::models
