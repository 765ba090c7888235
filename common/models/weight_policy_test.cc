#include "common/models/weight_policy.h"

#include <gtest/gtest.h>

namespace tandem::models {
namespace {

using formats::DType;
using kernels::ActivationType;
using kernels::WeightType;

TEST(ChooseWeightType, TakesWhatIsAskedFor) {
  EXPECT_EQ(ChooseWeightType(DType::kQ6_K, WeightType::kBF16, ActivationType::kInt8),
            (WeightChoice{WeightType::kBF16, false}));
}

TEST(ChooseWeightType, HoldsTheFileWithoutLossByItself) {
  for (const ActivationType activations :
       {ActivationType::kF32, ActivationType::kBF16, ActivationType::kInt8}) {
    EXPECT_EQ(ChooseWeightType(DType::kQ4_1, {}, activations), WeightChoice{WeightType::kInt4});
    EXPECT_EQ(ChooseWeightType(DType::kQ8_0, {}, activations), WeightChoice{WeightType::kInt8});
    EXPECT_EQ(ChooseWeightType(DType::kBF16, {}, activations), WeightChoice{WeightType::kBF16});
    EXPECT_EQ(ChooseWeightType(DType::kF16, {}, activations), WeightChoice{WeightType::kF32});
    EXPECT_EQ(ChooseWeightType(DType::kF32, {}, activations), WeightChoice{WeightType::kF32});
  }
}

TEST(ChooseWeightType, RoundsKTypesToInt8OnlyWithInt8Activations) {
  for (const DType dtype : {DType::kQ4_K, DType::kQ6_K}) {
    EXPECT_EQ(ChooseWeightType(dtype, {}, ActivationType::kInt8), (WeightChoice{WeightType::kInt8, true}));
    EXPECT_EQ(ChooseWeightType(dtype, {}, ActivationType::kF32), WeightChoice{WeightType::kF32});
    EXPECT_EQ(ChooseWeightType(dtype, {}, ActivationType::kBF16), WeightChoice{WeightType::kF32});
  }
}

TEST(ChooseDeviceWeightType, KeepsF32AndHoldsTheRestInBF16) {
  EXPECT_EQ(ChooseDeviceWeightType(DType::kF32, {}), WeightChoice{WeightType::kF32});
  EXPECT_EQ(ChooseDeviceWeightType(DType::kBF16, {}), WeightChoice{WeightType::kBF16});
  for (const DType dtype : {DType::kF16, DType::kQ4_1, DType::kQ8_0, DType::kQ6_K}) {
    EXPECT_EQ(ChooseDeviceWeightType(dtype, {}), (WeightChoice{WeightType::kBF16, true}));
    EXPECT_EQ(ChooseDeviceWeightType(dtype, WeightType::kF32), WeightChoice{WeightType::kF32});
  }
}

TEST(WeightTypeSet, NamesEachTypeOnceNarrowestFirst) {
  WeightTypeSet types;
  EXPECT_EQ(types.Name(), "");
  types.Add({WeightType::kF32});
  types.Add({WeightType::kInt8, true});
  types.Add({WeightType::kInt4});
  types.Add({WeightType::kInt8});
  types.Add({WeightType::kInt4});
  EXPECT_EQ(types.Name(), "q4+~int8+int8+f32");
}

}  // namespace
}  // namespace tandem::models
