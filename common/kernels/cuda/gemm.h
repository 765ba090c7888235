// y[t, r] = sum_c x[t, c] * w[r, c] on the device, in one of two ways:
//   the library's (cuBLASLt), fast: the algorithm, hence the order of the sum, depends on the matrix and on
//   the
//     bucket of tokens that the step falls into; sums in f32, not TF32;
//   the plain kernel, for --deterministic: gemm.h's order of the folder above (acc = fma(x, w, acc), columns
//     ascending), whatever the number of tokens, hence batch invariant.
// Inputs are rounded as there, but for int8, which this backend does not have.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "absl/status/statusor.h"
#include "common/kernels/cuda/device.h"
#include "common/kernels/cuda/device_matrix.h"
#include "common/kernels/types.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

// Tokens that the library's product computes for a step of so many. The inputs and outputs of Gemm have room
// for these rows; what is in those beyond the step's is nobody's business.
int BucketTokens(int tokens);

// One step's inputs to a matrix product, rounded once and used by several matrices.
class DeviceActivations {
 public:
  // kF32 or kBF16.
  static absl::StatusOr<DeviceActivations> Create(int max_tokens, int max_cols, ActivationType type,
                                                  Device& device);

  // Takes x [BucketTokens(tokens), cols] f32; borrows it until the next Load if nothing is rounded.
  void Load(const float* x, int tokens, int cols, Device& device);

  ActivationType type() const { return type_; }
  int tokens() const { return tokens_; }
  int cols() const { return cols_; }
  const float* f32() const { return f32_; }                              // as rounded
  const uint16_t* bf16() const { return halves_.as<const uint16_t>(); }  // of kBF16

 private:
  ActivationType type_ = ActivationType::kF32;
  int tokens_ = 0, cols_ = 0;
  const float* f32_ = nullptr;
  DeviceBuffer rounded_, halves_;
};

// cuBLASLt, with what it has chosen so far.
class LibraryGemm {
 public:
  // Finds the library and what is used of it, once a process; kFailedPrecondition says what is missing.
  static absl::Status Open();
  // Opens it, too. kFailedPrecondition if the library does not start.
  static absl::StatusOr<std::unique_ptr<LibraryGemm>> Create(Device& device);
  ~LibraryGemm();
  static std::string Version();  // "cublaslt-130000"; after Open

  // Products of equal types only: f32 weights, or bf16 weights with bf16 activations.
  static bool Takes(const DeviceActivations& x, const DeviceMatrix& w);
  // False, with nothing done, if the library has no algorithm for the shape.
  bool Run(const DeviceActivations& x, const DeviceMatrix& w, float* y);

 private:
  struct Plan;
  using Key = std::tuple<int64_t, int64_t, WeightType, int>;  // rows, cols, type, bucket

  explicit LibraryGemm(Device& device);
  // Asks the library at a shape's and bucket's first use.
  const Plan& PlanFor(const DeviceMatrix& w, int bucket);

  Device& device_;
  void* handle_ = nullptr;  // cublasLtHandle_t
  DeviceBuffer workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

// y [tokens, w.rows()] f32.
void PlainGemm(const DeviceActivations& x, const DeviceMatrix& w, float* y, Device& device);

// y [BucketTokens(tokens), w.rows()] f32. Without `library`, and for what it does not take, the plain kernel.
void Gemm(const DeviceActivations& x, const DeviceMatrix& w, float* y, LibraryGemm* library, Device& device);

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
