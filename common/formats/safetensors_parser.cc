// One file: u64 header length, header (JSON object: name -> dtype, shape, data_offsets [begin, end);
// "__metadata__" -> strings), data. Offsets count from the end of the header; the tensors fill the data
// exactly.
#include "common/formats/safetensors_parser.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/formats/byte_reader.h"
#include "common/formats/json.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 25'000'000;
constexpr size_t kMaxTensors = 65'536;
constexpr size_t kMaxDimensions = 8;

absl::StatusOr<DType> ParseDType(const std::string& name) {
  constexpr DType kKnown[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF64, DType::kI8,
                              DType::kI16, DType::kI32, DType::kI64,  DType::kU8,  DType::kBool};
  for (const DType dtype : kKnown) {
    if (name == DTypeName(dtype)) return dtype;
  }
  constexpr const char* kUnsupported[] = {"U16",     "U32",     "U64",     "C64",     "F8_E5M2",
                                          "F8_E4M3", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4"};
  for (const char* unsupported : kUnsupported) {
    if (name == unsupported) return Unimplemented("dtype `{}` is not supported", name);
  }
  return InvalidArgument("unknown dtype {}", Quoted(name));
}

absl::StatusOr<const json*> Field(const json& entry, const char* name) {
  const auto found = entry.find(name);
  if (found == entry.end()) return InvalidArgument("no {}", name);
  return &*found;
}

// A list of whole numbers >= 0 that fit 63 bits.
absl::StatusOr<std::vector<int64_t>> WholeNumbers(const json& entry, const char* name, size_t max_size) {
  ASSIGN_OR_RETURN(const json* list, Field(entry, name));
  if (!list->is_array()) return InvalidArgument("{} is no list", name);
  if (list->size() > max_size) {
    return InvalidArgument("{} has {} numbers, at most {} are allowed", name, list->size(), max_size);
  }
  std::vector<int64_t> numbers;
  for (const json& item : *list) {
    if (!item.is_number_unsigned() || !std::in_range<int64_t>(item.get<uint64_t>())) {
      return InvalidArgument("{} holds something else than whole numbers from 0 to 2^63", name);
    }
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

// One entry of the header, checked against the data; `begin` is its offset.
struct Placed {
  TensorView view;
  int64_t begin = 0;
};

absl::StatusOr<Placed> ParseEntry(const json& entry, std::span<const std::byte> data) {
  if (!entry.is_object()) return InvalidArgument("the entry is no object");
  Placed placed;
  ASSIGN_OR_RETURN(const json* dtype, Field(entry, "dtype"));
  if (!dtype->is_string()) return InvalidArgument("dtype is no string");
  ASSIGN_OR_RETURN(placed.view.dtype, ParseDType(dtype->get_ref<const std::string&>()));
  ASSIGN_OR_RETURN(placed.view.shape, WholeNumbers(entry, "shape", kMaxDimensions));
  ASSIGN_OR_RETURN(const std::vector<int64_t> offsets, WholeNumbers(entry, "data_offsets", 2));
  if (offsets.size() != 2) return InvalidArgument("data_offsets has {} numbers instead of 2", offsets.size());
  if (entry.size() != 3) return InvalidArgument("the entry has fields besides dtype, shape and data_offsets");

  int64_t bytes = BlockBytes(placed.view.dtype);
  for (const int64_t size : placed.view.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return InvalidArgument("shape of 2^63 bytes or more");
  }
  placed.begin = offsets[0];
  const int64_t end = offsets[1];
  if (placed.begin > end || std::cmp_greater(end, data.size())) {
    return InvalidArgument("data_offsets [{}, {}] do not fit the data of {} bytes", placed.begin, end,
                           data.size());
  }
  if (end - placed.begin != bytes) {
    return InvalidArgument("{} bytes of data for {} {}, which take {}", end - placed.begin,
                           DTypeName(placed.view.dtype), ShapeText(placed.view.shape), bytes);
  }
  placed.view.data = data.subspan(placed.begin, bytes);
  return placed;
}

// Each byte of the data belongs to exactly one tensor.
absl::Status CheckCoverage(std::vector<Placed>& tensors, size_t data_size) {
  std::sort(tensors.begin(), tensors.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.view.data.size()) < std::pair(b.begin, b.view.data.size());
  });
  int64_t covered = 0;
  for (const Placed& tensor : tensors) {
    if (tensor.begin != covered) {
      return InvalidArgument("tensor {} begins at {}, the one before it ends at {}: {}",
                             Quoted(tensor.view.name), tensor.begin, covered,
                             tensor.begin < covered ? "overlap" : "gap");
    }
    covered += static_cast<int64_t>(tensor.view.data.size());
  }
  if (std::cmp_not_equal(covered, data_size)) {
    return InvalidArgument("{} bytes after the last tensor", data_size - covered);
  }
  return absl::OkStatus();
}

absl::Status CheckMetadata(const json& metadata) {
  if (!metadata.is_object()) return InvalidArgument("__metadata__ is no object");
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) return InvalidArgument("__metadata__ {} is no string", Quoted(key));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::map<std::string, TensorView>> ParseSafetensors(std::span<const std::byte> file) {
  ByteReader in(file);
  ASSIGN_OR_RETURN(const uint64_t header_size, in.Read<uint64_t>("the header length"));
  if (header_size > kMaxHeaderBytes) {
    return InvalidArgument("header length {}, the limit is {}", header_size, kMaxHeaderBytes);
  }
  ASSIGN_OR_RETURN(const auto header_bytes, in.ReadBytes(header_size, "the header"));
  const auto data = file.subspan(in.position());
  const std::string_view text(reinterpret_cast<const char*>(header_bytes.data()), header_bytes.size());
  if (!text.starts_with('{')) return InvalidArgument("the header does not begin with an opening brace");
  auto header = ParseJson(text, {.max_depth = 4});
  if (!header.ok()) return Annotate(header.status(), "header");
  const size_t num_tensors = header->size() - header->count("__metadata__");
  if (num_tensors > kMaxTensors)
    return InvalidArgument("{} tensors, the limit is {}", num_tensors, kMaxTensors);

  std::vector<Placed> placed;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      RETURN_IF_ERROR(CheckMetadata(entry));
      continue;
    }
    auto tensor = ParseEntry(entry, data);
    if (!tensor.ok()) return Annotate(tensor.status(), "tensor " + Quoted(name));
    tensor->view.name = name;
    placed.push_back(*std::move(tensor));
  }
  RETURN_IF_ERROR(CheckCoverage(placed, data.size()));

  std::map<std::string, TensorView> tensors;
  for (Placed& tensor : placed) {
    std::string name = tensor.view.name;
    tensors.emplace(std::move(name), std::move(tensor.view));
  }
  return tensors;
}

}  // namespace tandem::formats
