// Row-major y [tokens, rows] = x [tokens, cols] w^T is to the library, which thinks in columns, the
// column-major y^T [rows, tokens] = w x^T: w lies as [cols, rows] and is transposed, x^T as [cols, tokens].
//
// The library is opened when it is first wanted: linked, it would cost each process, also one that computes
// on the CPU, 90 ms at its start and 210 MB.
#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <type_traits>

#include "common/base/status.h"
#include "common/kernels/cuda/gemm.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

// What NVIDIA advises for Hopper, and more than older devices ask for.
constexpr int64_t kWorkspaceBytes = 32 << 20;

// What is used of the library.
#define TANDEM_CUBLAS_FUNCTIONS(F) \
  F(Create)                        \
  F(Destroy)                       \
  F(GetVersion)                    \
  F(GetStatusString)               \
  F(Matmul)                        \
  F(MatmulAlgoGetHeuristic)        \
  F(MatmulDescCreate)              \
  F(MatmulDescDestroy)             \
  F(MatmulDescSetAttribute)        \
  F(MatmulPreferenceCreate)        \
  F(MatmulPreferenceDestroy)       \
  F(MatmulPreferenceSetAttribute)  \
  F(MatrixLayoutCreate)            \
  F(MatrixLayoutDestroy)

// Its functions under their own names.
struct Api {
#define TANDEM_CUBLAS(name) decltype(&cublasLt##name) name = nullptr;
  TANDEM_CUBLAS_FUNCTIONS(TANDEM_CUBLAS)
#undef TANDEM_CUBLAS
};

absl::StatusOr<Api> OpenApi() {
  const std::string file = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return FailedPrecondition("cuBLASLt cannot be opened: {}", dlerror());
  Api api;
  const char* missing = nullptr;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr) missing = name;
  };
#define TANDEM_CUBLAS(name) find("cublasLt" #name, api.name);
  TANDEM_CUBLAS_FUNCTIONS(TANDEM_CUBLAS)
#undef TANDEM_CUBLAS
  if (missing != nullptr) return FailedPrecondition("{} has no {}", file, missing);
  return api;
}

// Opened once a process, and never closed.
const absl::StatusOr<Api>& OpenedApi() {
  static const absl::StatusOr<Api> api = OpenApi();
  return api;
}
// Of a library that has been opened.
const Api& Lt() { return *OpenedApi(); }

void Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "cuBLASLt: %s: %s\n", what, Lt().GetStatusString(status));
  std::abort();
}

template <typename T>
void Set(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  Check(Lt().MatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value), "a preference");
}

}  // namespace

struct LibraryGemm::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, y = nullptr;
  std::optional<cublasLtMatmulAlgo_t> algorithm;  // none: the library cannot do it

  ~Plan() {
    if (y != nullptr) Lt().MatrixLayoutDestroy(y);
    if (x != nullptr) Lt().MatrixLayoutDestroy(x);
    if (w != nullptr) Lt().MatrixLayoutDestroy(w);
    if (operation != nullptr) Lt().MatmulDescDestroy(operation);
  }
};

LibraryGemm::LibraryGemm(Device& device) : device_(device) {}

LibraryGemm::~LibraryGemm() {
  plans_.clear();
  if (handle_ != nullptr) Lt().Destroy(static_cast<cublasLtHandle_t>(handle_));
}

absl::StatusOr<std::unique_ptr<LibraryGemm>> LibraryGemm::Create(Device& device) {
  RETURN_IF_ERROR(Open());
  device.Use();
  std::unique_ptr<LibraryGemm> library(new LibraryGemm(device));
  cublasLtHandle_t handle = nullptr;
  const cublasStatus_t status = Lt().Create(&handle);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return FailedPrecondition("cuBLASLt does not start: {}", Lt().GetStatusString(status));
  }
  library->handle_ = handle;
  ASSIGN_OR_RETURN(library->workspace_, device.Allocate(kWorkspaceBytes));
  return library;
}

absl::Status LibraryGemm::Open() { return OpenedApi().status(); }

std::string LibraryGemm::Version() { return fmt::format("cublaslt-{}", Lt().GetVersion()); }

bool LibraryGemm::Takes(const DeviceActivations& x, const DeviceMatrix& w) {
  return w.type() == WeightType::kF32 || x.type() == ActivationType::kBF16;
}

const LibraryGemm::Plan& LibraryGemm::PlanFor(const DeviceMatrix& w, int bucket) {
  std::unique_ptr<Plan>& plan = plans_[{w.rows(), w.cols(), w.type(), bucket}];
  if (plan != nullptr) return *plan;
  plan = std::make_unique<Plan>();
  const cudaDataType_t type = w.type() == WeightType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
  const cublasOperation_t transpose = CUBLAS_OP_T;
  const uint64_t rows = w.rows(), cols = w.cols(), tokens = bucket;
  Check(Lt().MatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  Check(
      Lt().MatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose),
      "describing a product");
  Check(Lt().MatrixLayoutCreate(&plan->w, type, cols, rows, w.cols()), "describing weights");
  Check(Lt().MatrixLayoutCreate(&plan->x, type, cols, tokens, w.cols()), "describing inputs");
  Check(Lt().MatrixLayoutCreate(&plan->y, CUDA_R_32F, rows, tokens, w.rows()), "describing outputs");

  cublasLtMatmulPreference_t preference = nullptr;
  Check(Lt().MatmulPreferenceCreate(&preference), "a preference");
  Set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<size_t>(kWorkspaceBytes));
  cublasLtMatmulHeuristicResult_t best = {};
  int found = 0;
  const cublasStatus_t status =
      Lt().MatmulAlgoGetHeuristic(static_cast<cublasLtHandle_t>(handle_), plan->operation, plan->w, plan->x,
                                  plan->y, plan->y, preference, 1, &best, &found);
  Lt().MatmulPreferenceDestroy(preference);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || found == 0) return *plan;
  Check(status, "choosing an algorithm");
  plan->algorithm = best.algo;
  return *plan;
}

bool LibraryGemm::Run(const DeviceActivations& x, const DeviceMatrix& w, float* y) {
  const Plan& plan = PlanFor(w, BucketTokens(x.tokens()));
  if (!plan.algorithm.has_value()) return false;
  const float one = 1.0f, zero = 0.0f;
  const bool is_f32 = w.type() == WeightType::kF32;
  const void* const weights = is_f32 ? static_cast<const void*>(w.f32()) : w.bf16();
  const void* const inputs = is_f32 ? static_cast<const void*>(x.f32()) : x.bf16();
  Check(Lt().Matmul(static_cast<cublasLtHandle_t>(handle_), plan.operation, &one, weights, plan.w, inputs,
                    plan.x, &zero, y, plan.y, y, plan.y, &*plan.algorithm, workspace_.data(), kWorkspaceBytes,
                    device_.stream()),
        "a product");
  return true;
}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
