#include "common/kernels/types.h"

#include <array>
#include <utility>

namespace tandem::kernels {
namespace {

constexpr std::array<std::pair<std::string_view, WeightType>, 4> kWeightTypes = {{{"f32", WeightType::kF32},
                                                                                  {"bf16", WeightType::kBF16},
                                                                                  {"int8", WeightType::kInt8},
                                                                                  {"q4", WeightType::kInt4}}};
constexpr std::array<std::pair<std::string_view, ActivationType>, 3> kActivationTypes = {
    {{"f32", ActivationType::kF32}, {"bf16", ActivationType::kBF16}, {"int8", ActivationType::kInt8}}};
constexpr std::array<std::pair<std::string_view, KvType>, 3> kKvTypes = {
    {{"f32", KvType::kF32}, {"bf16", KvType::kBF16}, {"int8", KvType::kInt8}}};

template <typename Table, typename Type>
std::string_view NameIn(const Table& table, Type type) {
  for (const auto& [name, value] : table) {
    if (value == type) return name;
  }
  return "unknown";
}

template <typename Type, size_t n>
std::optional<Type> ParseIn(const std::array<std::pair<std::string_view, Type>, n>& table,
                            std::string_view text) {
  for (const auto& [name, value] : table) {
    if (name == text) return value;
  }
  return std::nullopt;
}

}  // namespace

std::string_view WeightTypeName(WeightType type) { return NameIn(kWeightTypes, type); }
std::string_view ActivationTypeName(ActivationType type) { return NameIn(kActivationTypes, type); }
std::string_view KvTypeName(KvType type) { return NameIn(kKvTypes, type); }
std::optional<WeightType> ParseWeightType(std::string_view name) { return ParseIn(kWeightTypes, name); }
std::optional<ActivationType> ParseActivationType(std::string_view name) {
  return ParseIn(kActivationTypes, name);
}
std::optional<KvType> ParseKvType(std::string_view name) { return ParseIn(kKvTypes, name); }

}  // namespace tandem::kernels
