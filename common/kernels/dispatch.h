// Which instruction set the kernels run on, chosen once per process.
//
// Kernels are written so that each output element is computed by the same sequence of IEEE operations (fused
// multiply-add where written as such) on every target: output rows or head dimensions lie in vector lanes,
// sums run along the columns in a fixed order, and reductions across lanes use 16 virtual lanes and a fixed
// tree whatever the register width. Equal bits on AVX2, AVX-512 and NEON follow, and tests compare each
// target that the machine has.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tandem::kernels {

// Names of the targets that this machine can run, best first, e.g. {"AVX3_DL", "AVX3", "AVX2"}; never empty:
// "SCALAR" (plain C++ with std::fma, slow) is always last.
std::vector<std::string> AvailableTargets();

// The target in use.
std::string ActiveTarget();

// Restricts all later kernel calls to one target; for tests and experiments, while no kernel runs.
// kInvalidArgument naming the available targets if this machine cannot run it.
absl::Status SelectTarget(const std::string& name);

// SelectTarget of the environment variable TANDEM_TARGET, if it is set; programs call it at their start.
absl::Status SelectTargetFromEnvironment();

}  // namespace tandem::kernels
