// Element types of packed weights, activations and the KV cache.
#pragma once

#include <optional>
#include <string_view>

namespace tandem::kernels {

// How a packed matrix holds its weights. kInt8 and kInt4 hold blocks of 32 columns, each with an f16 scale
// and, where the source has one, an f16 minimum: w = scale * q + minimum.
enum class WeightType { kF32, kBF16, kInt8, kInt4 };

// What a matrix product rounds its input to: nothing, bf16, or int8 with one f32 scale per 32 columns
// (quantised weights only; a product with f32 or bf16 weights then keeps f32).
enum class ActivationType { kF32, kBF16, kInt8 };

// What the KV cache rounds keys and values to; int8 with one f32 scale per position and head.
enum class KvType { kF32, kBF16, kInt8 };

std::string_view WeightTypeName(WeightType type);          // "f32", "bf16", "int8", "q4"
std::string_view ActivationTypeName(ActivationType type);  // "f32", "bf16", "int8"
std::string_view KvTypeName(KvType type);                  // "f32", "bf16", "int8"
std::optional<WeightType> ParseWeightType(std::string_view name);
std::optional<ActivationType> ParseActivationType(std::string_view name);
std::optional<KvType> ParseKvType(std::string_view name);

}  // namespace tandem::kernels
