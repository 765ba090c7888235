// One block of 32 weights of one row on its way into a packed matrix: taken over bit by bit from a quantised
// file, or quantised from floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/formats/tensor.h"
#include "common/kernels/matrix.h"
#include "common/kernels/types.h"

namespace tandem::kernels {

// w[c] = scale * q[c] + minimum; scale and minimum as f16 bits. q fits the type: int8 any; q4 without minimum
// -8..7, with minimum 0..15.
struct BlockQuants {
  uint16_t scale = 0;
  uint16_t minimum = 0;
  int8_t q[kBlockColumns] = {};
};

// Whether the packed type takes the file's blocks as they are (Q4_0, Q4_1 in both; Q5_0, Q5_1, Q8_0 in int8).
bool HoldsBlocksExactly(WeightType type, formats::DType dtype);

// Whether blocks of this source have a minimum in this packed type.
bool BlocksHaveMinimum(WeightType type, formats::DType dtype);

// Reads one block of a type of which HoldsBlocksExactly. False if scale or minimum is not finite.
bool ReadBlock(formats::DType dtype, std::span<const std::byte> in, BlockQuants& out);

// Rounds to int8 (scale = max|w| / 127, symmetric) or q4 (minimum = min w, scale = (max - min) / 15), quants
// to nearest against the scale as stored. False if a weight is not finite or the scale exceeds f16.
bool QuantiseBlock(WeightType type, std::span<const float, kBlockColumns> in, BlockQuants& out);

}  // namespace tandem::kernels
