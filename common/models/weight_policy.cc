#include "common/models/weight_policy.h"

#include "common/kernels/matrix.h"

namespace tandem::models {

using kernels::ActivationType;
using kernels::WeightType;

WeightChoice ChooseWeightType(formats::DType dtype, std::optional<WeightType> asked,
                              ActivationType activations) {
  if (asked.has_value()) return {*asked};
  const WeightType lossless = kernels::LosslessWeightType(dtype);
  if (lossless == WeightType::kF32 && formats::IsQuantised(dtype) && activations == ActivationType::kInt8) {
    return {WeightType::kInt8, /*rounded=*/true};
  }
  return {lossless};
}

WeightChoice ChooseDeviceWeightType(formats::DType dtype, std::optional<WeightType> asked) {
  if (asked.has_value()) return {*asked};
  if (dtype == formats::DType::kF32) return {WeightType::kF32};
  return {WeightType::kBF16, /*rounded=*/dtype != formats::DType::kBF16};
}

std::string WeightTypeSet::Name() const {
  std::string name;
  // The enumeration runs from the widest type to the narrowest.
  for (auto it = types_.rbegin(); it != types_.rend(); ++it) {
    if (!name.empty()) name += '+';
    if (it->rounded) name += '~';
    name += kernels::WeightTypeName(it->type);
  }
  return name;
}

}  // namespace tandem::models
