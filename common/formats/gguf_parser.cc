// Layout (all little-endian): "GGUF", u32 version, u64 tensors, u64 metadata pairs; the pairs (string key,
// u32 type, value); per tensor string name, u32 dimensions, u64 each (innermost first), u32 type, u64 offset;
// padding to the alignment; tensor data, offsets counted from here. Strings and arrays carry a 64-bit length.
#include "common/formats/gguf_parser.h"

#include <algorithm>
#include <limits>
#include <set>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/formats/byte_reader.h"
#include "common/formats/quoted.h"

namespace tandem::formats {
namespace {

constexpr uint64_t kMaxKeyBytes = 65'535;  // from the format's specification
constexpr uint64_t kMaxNameBytes = 255;    // longer than any known file's; ggml itself stops at 63
constexpr uint32_t kMaxDimensions = 4;
// A pair and a tensor take far more memory than their bytes in the file. Known files have some 1,000 tensors
// and 50 pairs.
constexpr uint64_t kMaxTensors = 65'536, kMaxPairs = 65'536;
constexpr int64_t kMinAlignment = 8, kMaxAlignment = 1 << 20, kDefaultAlignment = 32;
// Over all arrays of one file: an element takes up to 32 bytes here but perhaps one in the file. Large
// vocabularies with scores, types and merges have 10^6.
constexpr uint64_t kMaxArrayElements = uint64_t{1} << 25;

// clang-format off
enum ValueType : uint32_t {
  kUint8, kInt8, kUint16, kInt16, kUint32, kInt32, kFloat32, kBoolean, kText, kArray, kUint64, kInt64, kFloat64,
};
// clang-format on

// ggml's type ids. The gaps are retired and refused as unknown.
constexpr std::pair<uint32_t, DType> kTensorTypes[] = {
    {0, DType::kF32},   {1, DType::kF16},   {2, DType::kQ4_0},    {3, DType::kQ4_1},    {6, DType::kQ5_0},
    {7, DType::kQ5_1},  {8, DType::kQ8_0},  {10, DType::kQ2_K},   {11, DType::kQ3_K},   {12, DType::kQ4_K},
    {13, DType::kQ5_K}, {14, DType::kQ6_K}, {20, DType::kIQ4_NL}, {23, DType::kIQ4_XS}, {24, DType::kI8},
    {25, DType::kI16},  {26, DType::kI32},  {27, DType::kI64},    {28, DType::kF64},    {30, DType::kBF16},
};
// Types that exist in ggml but not here.
constexpr std::pair<uint32_t, const char*> kUnsupportedTensorTypes[] = {
    {9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"}, {19, "IQ1_S"},
    {21, "IQ3_S"}, {22, "IQ2_S"}, {29, "IQ1_M"},   {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"},
};

absl::StatusOr<DType> TensorTypeOf(uint32_t id) {
  for (const auto& [known, dtype] : kTensorTypes) {
    if (id == known) return dtype;
  }
  for (const auto& [known, name] : kUnsupportedTensorTypes) {
    if (id == known) return Unimplemented("tensor type `{}` is not supported", name);
  }
  return InvalidArgument("unknown tensor type {}", id);
}

// One tensor's description, its offset not yet checked.
struct TensorInfo {
  TensorView view;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

class Parser {
 public:
  explicit Parser(std::span<const std::byte> file) : file_(file), in_(file) {}

  absl::StatusOr<GgufContents> Parse() {
    RETURN_IF_ERROR(ReadMagicAndVersion());
    constexpr uint64_t kMinPairBytes = 8 + 4 + 1, kMinTensorBytes = 8 + 4 + 8 + 4 + 8;
    ASSIGN_OR_RETURN(const uint64_t num_tensors, in_.ReadCount(kMinTensorBytes, "the number of tensors"));
    ASSIGN_OR_RETURN(const uint64_t num_pairs, in_.ReadCount(kMinPairBytes, "the number of metadata pairs"));
    if (num_tensors > kMaxTensors)
      return InvalidArgument("{} tensors, the limit is {}", num_tensors, kMaxTensors);
    if (num_pairs > kMaxPairs)
      return InvalidArgument("{} metadata pairs, the limit is {}", num_pairs, kMaxPairs);
    for (uint64_t i = 0; i < num_pairs; ++i) RETURN_IF_ERROR(ReadPair());
    ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
    std::vector<TensorInfo> infos;
    infos.reserve(num_tensors);
    for (uint64_t i = 0; i < num_tensors; ++i) {
      ASSIGN_OR_RETURN(TensorInfo info, ReadTensorInfo(i));
      infos.push_back(std::move(info));
    }
    RETURN_IF_ERROR(PlaceTensors(std::move(infos), alignment));
    return std::move(contents_);
  }

 private:
  absl::Status ReadMagicAndVersion() {
    ASSIGN_OR_RETURN(const auto magic, in_.ReadBytes(4, "the magic"));
    const std::string_view text(reinterpret_cast<const char*>(magic.data()), magic.size());
    if (text != "GGUF") return InvalidArgument("is no GGUF file: begins with {}", Quoted(text));
    ASSIGN_OR_RETURN(const uint32_t version, in_.Read<uint32_t>("the version"));
    if (version == 0x02000000 || version == 0x03000000) return InvalidArgument("is a big-endian GGUF file");
    if (version != 2 && version != 3)
      return InvalidArgument("has GGUF version {}, 2 and 3 are known", version);
    return absl::OkStatus();
  }

  absl::Status ReadPair() {
    const std::string nth = fmt::format("metadata key {}", contents_.metadata.size());
    ASSIGN_OR_RETURN(const std::string_view key, in_.ReadString(nth));
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return InvalidArgument("{} has {} bytes, allowed are 1 to {}", nth, key.size(), kMaxKeyBytes);
    }
    ASSIGN_OR_RETURN(const uint32_t type, in_.Read<uint32_t>("the type of a metadata value"));
    auto value = type == kArray ? ReadArray() : ReadScalar(type);
    if (!value.ok()) return Annotate(value.status(), "metadata " + Quoted(key));
    if (!contents_.metadata.emplace(std::string(key), *std::move(value)).second) {
      return InvalidArgument("metadata {} is given twice", Quoted(key));
    }
    return absl::OkStatus();
  }

  template <typename Stored, typename Widened>
  absl::StatusOr<GgufValue> ReadNumber() {
    ASSIGN_OR_RETURN(const Stored value, in_.Read<Stored>("a value"));
    return GgufValue(static_cast<Widened>(value));
  }

  absl::StatusOr<bool> ReadBool() {
    ASSIGN_OR_RETURN(const uint8_t value, in_.Read<uint8_t>("a truth value"));
    if (value > 1) return InvalidArgument("truth value {}, allowed are 0 and 1", value);
    return value == 1;
  }

  absl::StatusOr<GgufValue> ReadScalar(uint32_t type) {
    switch (type) {
      case kUint8:
        return ReadNumber<uint8_t, uint64_t>();
      case kUint16:
        return ReadNumber<uint16_t, uint64_t>();
      case kUint32:
        return ReadNumber<uint32_t, uint64_t>();
      case kUint64:
        return ReadNumber<uint64_t, uint64_t>();
      case kInt8:
        return ReadNumber<int8_t, int64_t>();
      case kInt16:
        return ReadNumber<int16_t, int64_t>();
      case kInt32:
        return ReadNumber<int32_t, int64_t>();
      case kInt64:
        return ReadNumber<int64_t, int64_t>();
      case kFloat32:
        return ReadNumber<float, double>();
      case kFloat64:
        return ReadNumber<double, double>();
      case kBoolean: {
        ASSIGN_OR_RETURN(const bool value, ReadBool());
        return GgufValue(value);
      }
      case kText: {
        ASSIGN_OR_RETURN(const std::string_view text, in_.ReadString("a string"));
        return GgufValue(std::string(text));
      }
      default:
        return InvalidArgument("unknown value type {}", type);
    }
  }

  absl::StatusOr<uint64_t> ReadArrayLength(uint64_t min_element_bytes) {
    ASSIGN_OR_RETURN(const uint64_t length, in_.ReadCount(min_element_bytes, "the array length"));
    if (length > kMaxArrayElements - num_array_elements_) {
      return InvalidArgument("array of {} elements: all arrays together may have {}", length,
                             kMaxArrayElements);
    }
    num_array_elements_ += length;
    return length;
  }

  template <typename Stored, typename Widened>
  absl::StatusOr<GgufValue> ReadNumbers() {
    ASSIGN_OR_RETURN(const uint64_t length, ReadArrayLength(sizeof(Stored)));
    std::vector<Widened> values;
    values.reserve(length);
    for (uint64_t i = 0; i < length; ++i) {
      ASSIGN_OR_RETURN(const Stored value, in_.Read<Stored>("an array"));
      if constexpr (std::is_same_v<Stored, uint64_t>) {
        if (!std::in_range<int64_t>(value))
          return InvalidArgument("array element {} is {}, above 2^63", i, value);
      }
      values.push_back(static_cast<Widened>(value));
    }
    return GgufValue(std::move(values));
  }

  absl::StatusOr<GgufValue> ReadArray() {
    ASSIGN_OR_RETURN(const uint32_t type, in_.Read<uint32_t>("an array's element type"));
    switch (type) {
      case kUint8:
        return ReadNumbers<uint8_t, int64_t>();
      case kUint16:
        return ReadNumbers<uint16_t, int64_t>();
      case kUint32:
        return ReadNumbers<uint32_t, int64_t>();
      case kUint64:
        return ReadNumbers<uint64_t, int64_t>();
      case kInt8:
        return ReadNumbers<int8_t, int64_t>();
      case kInt16:
        return ReadNumbers<int16_t, int64_t>();
      case kInt32:
        return ReadNumbers<int32_t, int64_t>();
      case kInt64:
        return ReadNumbers<int64_t, int64_t>();
      case kFloat32:
        return ReadNumbers<float, double>();
      case kFloat64:
        return ReadNumbers<double, double>();
      case kBoolean:
        return ReadBools();
      case kText:
        return ReadStrings();
      case kArray:
        return InvalidArgument("an array of arrays, which no known file needs");
      default:
        return InvalidArgument("an array of unknown type {}", type);
    }
  }

  absl::StatusOr<GgufValue> ReadBools() {
    ASSIGN_OR_RETURN(const uint64_t length, ReadArrayLength(1));
    std::vector<bool> values(length);
    for (uint64_t i = 0; i < length; ++i) {
      ASSIGN_OR_RETURN(values[i], ReadBool());
    }
    return GgufValue(std::move(values));
  }

  absl::StatusOr<GgufValue> ReadStrings() {
    ASSIGN_OR_RETURN(const uint64_t length, ReadArrayLength(8));
    std::vector<std::string> values;
    values.reserve(length);
    for (uint64_t i = 0; i < length; ++i) {
      ASSIGN_OR_RETURN(const std::string_view text, in_.ReadString("an array's string"));
      values.emplace_back(text);
    }
    return GgufValue(std::move(values));
  }

  absl::StatusOr<uint64_t> Alignment() const {
    const auto found = contents_.metadata.find("general.alignment");
    if (found == contents_.metadata.end()) return kDefaultAlignment;
    const uint64_t* value = std::get_if<uint64_t>(&found->second);
    if (value == nullptr) return InvalidArgument("general.alignment is no unsigned integer");
    if (*value < kMinAlignment || *value > kMaxAlignment || !std::has_single_bit(*value)) {
      return InvalidArgument("general.alignment is {}, allowed are powers of two from {} to {}", *value,
                             kMinAlignment, kMaxAlignment);
    }
    return *value;
  }

  absl::StatusOr<TensorInfo> ReadTensorInfo(uint64_t index) {
    const std::string nth = fmt::format("the name of tensor {}", index);
    ASSIGN_OR_RETURN(const std::string_view name, in_.ReadString(nth));
    if (name.empty() || name.size() > kMaxNameBytes) {
      return InvalidArgument("{} has {} bytes, allowed are 1 to {}", nth, name.size(), kMaxNameBytes);
    }
    auto info = ReadTensorBody();
    if (!info.ok()) return Annotate(info.status(), "tensor " + Quoted(name));
    if (!names_.insert(name).second) return InvalidArgument("tensor {} is described twice", Quoted(name));
    info->view.name = name;
    return info;
  }

  absl::StatusOr<TensorInfo> ReadTensorBody() {
    TensorInfo info;
    ASSIGN_OR_RETURN(const uint32_t num_dimensions, in_.Read<uint32_t>("the number of dimensions"));
    if (num_dimensions < 1 || num_dimensions > kMaxDimensions) {
      return InvalidArgument("{} dimensions, allowed are 1 to {}", num_dimensions, kMaxDimensions);
    }
    int64_t num_elements = 1;
    for (uint32_t i = 0; i < num_dimensions; ++i) {
      ASSIGN_OR_RETURN(const uint64_t size, in_.Read<uint64_t>("the dimensions"));
      if (size == 0 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
          __builtin_mul_overflow(num_elements, static_cast<int64_t>(size), &num_elements)) {
        return InvalidArgument("dimension {} is {}: sizes must be positive and their product below 2^63", i,
                               size);
      }
      info.view.shape.push_back(static_cast<int64_t>(size));
    }
    std::reverse(info.view.shape.begin(), info.view.shape.end());

    ASSIGN_OR_RETURN(const uint32_t type, in_.Read<uint32_t>("the type"));
    ASSIGN_OR_RETURN(const DType dtype, TensorTypeOf(type));
    info.view.dtype = dtype;
    if (info.view.row_elements() % BlockElements(dtype) != 0) {
      return InvalidArgument("rows of {} elements are not whole {} blocks of {}", info.view.row_elements(),
                             DTypeName(dtype), BlockElements(dtype));
    }
    if (__builtin_mul_overflow(static_cast<uint64_t>(num_elements / BlockElements(dtype)),
                               static_cast<uint64_t>(BlockBytes(dtype)), &info.bytes)) {
      return InvalidArgument("{} elements of type {} take more than 2^64 bytes", num_elements,
                             DTypeName(dtype));
    }
    ASSIGN_OR_RETURN(info.offset, in_.Read<uint64_t>("the offset"));
    return info;
  }

  // Checks each tensor's place and hands out its bytes.
  absl::Status PlaceTensors(std::vector<TensorInfo> infos, uint64_t alignment) {
    if (infos.empty()) return absl::OkStatus();
    const uint64_t data_begin = (in_.position() + alignment - 1) / alignment * alignment;
    if (data_begin > file_.size()) return InvalidArgument("ends before the tensor data");
    const auto data = file_.subspan(data_begin);
    for (TensorInfo& info : infos) {
      const std::string name = Quoted(info.view.name);
      if (info.offset % alignment != 0) {
        return InvalidArgument("tensor {}: offset {} is no multiple of the alignment {}", name, info.offset,
                               alignment);
      }
      if (info.offset > data.size() || info.bytes > data.size() - info.offset) {
        return InvalidArgument("tensor {}: {} bytes at offset {} reach past the end of the data ({} bytes)",
                               name, info.bytes, info.offset, data.size());
      }
      info.view.data = data.subspan(info.offset, info.bytes);
    }
    std::sort(infos.begin(), infos.end(), [](const auto& a, const auto& b) { return a.offset < b.offset; });
    for (size_t i = 1; i < infos.size(); ++i) {
      if (infos[i - 1].offset + infos[i - 1].bytes > infos[i].offset) {
        return InvalidArgument("tensors {} and {} overlap", Quoted(infos[i - 1].view.name),
                               Quoted(infos[i].view.name));
      }
    }
    for (TensorInfo& info : infos) {
      std::string name = info.view.name;
      contents_.tensors.emplace(std::move(name), std::move(info.view));
    }
    return absl::OkStatus();
  }

  const std::span<const std::byte> file_;
  ByteReader in_;
  GgufContents contents_;
  std::set<std::string_view> names_;  // of the tensors described so far; views into the file
  uint64_t num_array_elements_ = 0;
};

}  // namespace

absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> file) { return Parser(file).Parse(); }

}  // namespace tandem::formats
