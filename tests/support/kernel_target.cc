// Makes a test program compute on the target of TANDEM_TARGET, as the programs of the product do.
#include <gtest/gtest.h>

#include "common/kernels/dispatch.h"

namespace tandem::testing {
namespace {

class KernelTarget : public ::testing::Environment {
 public:
  void SetUp() override {
    const absl::Status selected = kernels::SelectTargetFromEnvironment();
    ASSERT_TRUE(selected.ok()) << selected;
  }
};

[[maybe_unused]] const auto* const kKernelTarget = ::testing::AddGlobalTestEnvironment(new KernelTarget);

}  // namespace
}  // namespace tandem::testing
