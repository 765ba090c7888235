#include "common/kernels/dispatch.h"

#include "common/base/status.h"

namespace tandem::kernels {

std::vector<std::string> AvailableTargets() { return {"SCALAR"}; }

std::string ActiveTarget() { return "SCALAR"; }

absl::Status SelectTarget(const std::string& name) {
  if (name != "SCALAR") return InvalidArgument("kernel target '{}' is not available here: SCALAR", name);
  return absl::OkStatus();
}

}  // namespace tandem::kernels
