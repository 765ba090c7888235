// There is no library to emulate: products go through the plain kernel.
#include "common/base/status.h"
#include "common/kernels/cuda/gemm.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

struct LibraryGemm::Plan {};

LibraryGemm::LibraryGemm(Device& device) : device_(device) {}
LibraryGemm::~LibraryGemm() = default;

absl::Status LibraryGemm::Open() {
  return FailedPrecondition("the emulated device has no cuBLASLt, only deterministic products");
}
absl::StatusOr<std::unique_ptr<LibraryGemm>> LibraryGemm::Create(Device&) { return Open(); }

std::string LibraryGemm::Version() { return "none"; }
bool LibraryGemm::Takes(const DeviceActivations&, const DeviceMatrix&) { return false; }
const LibraryGemm::Plan& LibraryGemm::PlanFor(const DeviceMatrix&, int) { TANDEM_CHECK(false); }
bool LibraryGemm::Run(const DeviceActivations&, const DeviceMatrix&, float*) { TANDEM_CHECK(false); }

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
