#include "common/kernels/dispatch.h"

#include <fmt/ranges.h>

#include <cstdlib>

#include "common/base/status.h"
#include "common/kernels/cpu/targets.h"
//
#include "hwy/highway.h"

namespace tandem::kernels {
namespace {

std::string NameOf(int64_t target) {
  return target == TANDEM_SCALAR_TARGET ? "SCALAR" : hwy::TargetName(target);
}

// Lower bits are better targets. Asked once: each call of hwy::SupportedTargets forgets what Update chose.
int64_t SupportedMask() {
  static const int64_t mask = (hwy::SupportedTargets() & HWY_TARGETS) | TANDEM_SCALAR_TARGET;
  return mask;
}

int64_t LowestBit(int64_t mask) { return mask & -mask; }

}  // namespace

std::vector<std::string> AvailableTargets() {
  std::vector<std::string> names;
  for (int64_t rest = SupportedMask(); rest != 0; rest &= rest - 1) names.push_back(NameOf(LowestBit(rest)));
  return names;
}

std::string ActiveTarget() {
  const int64_t supported = SupportedMask();
  hwy::ChosenTarget& chosen = hwy::GetChosenTarget();
  if (!chosen.IsInitialized()) chosen.Update(supported);
  // The inverse of Update: it shifts the targets' bits down into table positions.
  for (int64_t rest = supported; rest != 0; rest &= rest - 1) {
    const int64_t position = HWY_CHOSEN_TARGET_SHIFT(LowestBit(rest));
    if (position == int64_t{1} << chosen.GetIndex()) return NameOf(LowestBit(rest));
  }
  return "SCALAR";
}

absl::Status SelectTarget(const std::string& name) {
  for (int64_t rest = SupportedMask(); rest != 0; rest &= rest - 1) {
    if (NameOf(LowestBit(rest)) == name) {
      hwy::GetChosenTarget().Update(LowestBit(rest));
      return absl::OkStatus();
    }
  }
  return InvalidArgument("kernel target '{}' is not available on this machine; it has {}", name,
                         fmt::join(AvailableTargets(), ", "));
}

absl::Status SelectTargetFromEnvironment() {
  const char* const name = std::getenv("TANDEM_TARGET");
  if (name == nullptr || *name == '\0') return absl::OkStatus();
  return Annotate(SelectTarget(name), "TANDEM_TARGET");
}

}  // namespace tandem::kernels
