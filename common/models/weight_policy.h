// In which packed type a tensor of the file is held, and how the set of types is written in a numerics id.
#pragma once

#include <compare>
#include <optional>
#include <set>
#include <string>

#include "common/formats/tensor.h"
#include "common/kernels/types.h"

namespace tandem::models {

struct WeightChoice {
  kernels::WeightType type = kernels::WeightType::kF32;
  // Chosen here although it rounds what the file holds.
  bool rounded = false;

  auto operator<=>(const WeightChoice&) const = default;
};

// `asked` wins if given. Else the smallest type that holds the tensor without loss
// (kernels::LosslessWeightType), with one exception: with int8 activations, quantised tensors that only f32
// could hold (Q6_K and the other K types) become int8. They were rounded once already, int8 per 32 columns is
// finer than any of them but for the size of their sub-blocks, and f32 would cost four times the memory
// traffic and forgo the integer products.
WeightChoice ChooseWeightType(formats::DType dtype, std::optional<kernels::WeightType> asked,
                              kernels::ActivationType activations);

// Of a CUDA device, which has f32 and bf16: `asked` wins; else F32 tensors stay, and everything else is bf16,
// which rounds all but BF16.
WeightChoice ChooseDeviceWeightType(formats::DType dtype, std::optional<kernels::WeightType> asked);

// Collects what was chosen for a model's tensors: "q4+int8", "q4+~int8" ("~" = rounded), narrowest first.
class WeightTypeSet {
 public:
  void Add(WeightChoice choice) { types_.insert(choice); }
  std::string Name() const;

 private:
  std::set<WeightChoice> types_;
};

}  // namespace tandem::models
