#include "common/formats/tensor.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace tandem::formats {
namespace {

struct Layout {
  const char* name;
  int block_elements;
  int block_bytes;
};

// Bytes of a block: scales (float16 unless said otherwise) + packed bits.
Layout LayoutOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return {"F32", 1, 4};
    case DType::kF16:
      return {"F16", 1, 2};
    case DType::kBF16:
      return {"BF16", 1, 2};
    case DType::kQ4_0:
      return {"Q4_0", 32, 2 + 16};
    case DType::kQ4_1:
      return {"Q4_1", 32, 2 + 2 + 16};
    case DType::kQ5_0:
      return {"Q5_0", 32, 2 + 4 + 16};
    case DType::kQ5_1:
      return {"Q5_1", 32, 2 + 2 + 4 + 16};
    case DType::kQ8_0:
      return {"Q8_0", 32, 2 + 32};
    case DType::kQ2_K:
      return {"Q2_K", 256, 16 + 64 + 2 + 2};
    case DType::kQ3_K:
      return {"Q3_K", 256, 32 + 64 + 12 + 2};
    case DType::kQ4_K:
      return {"Q4_K", 256, 2 + 2 + 12 + 128};
    case DType::kQ5_K:
      return {"Q5_K", 256, 2 + 2 + 12 + 32 + 128};
    case DType::kQ6_K:
      return {"Q6_K", 256, 128 + 64 + 16 + 2};
    case DType::kIQ4_NL:
      return {"IQ4_NL", 32, 2 + 16};
    case DType::kIQ4_XS:
      return {"IQ4_XS", 256, 2 + 2 + 4 + 128};
    case DType::kI8:
      return {"I8", 1, 1};
    case DType::kI16:
      return {"I16", 1, 2};
    case DType::kI32:
      return {"I32", 1, 4};
    case DType::kI64:
      return {"I64", 1, 8};
    case DType::kU8:
      return {"U8", 1, 1};
    case DType::kF64:
      return {"F64", 1, 8};
    case DType::kBool:
      return {"BOOL", 1, 1};
  }
  TANDEM_CHECK(false);
}

}  // namespace

const char* DTypeName(DType dtype) { return LayoutOf(dtype).name; }
int64_t BlockElements(DType dtype) { return LayoutOf(dtype).block_elements; }
int64_t BlockBytes(DType dtype) { return LayoutOf(dtype).block_bytes; }
bool IsQuantised(DType dtype) { return BlockElements(dtype) > 1; }

int64_t TensorView::num_elements() const {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return n;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ","), "]");
}

}  // namespace tandem::formats
