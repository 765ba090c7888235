// One tile of a matrix product: a range of panels times a range of tokens, computed by one thread.
#pragma once

#include <cstdint>

#include "common/kernels/gemm.h"

namespace tandem::kernels {

struct GemmTile {
  const Activations* x;
  const Matrix* w;
  float* y;  // [tokens, w->rows()], `stride` floats between tokens
  int64_t stride;
  int64_t panel_begin, panel_end;
  int token_begin, token_end;
};

// Whether a product takes the integer path: quantised weights with int8 activations.
bool UsesIntegers(const Activations& x, const Matrix& w);

// On the target chosen by dispatch.h.
void RunFloatTile(const GemmTile& tile);    // f32 and bf16 weights; quantised ones with float activations
void RunIntegerTile(const GemmTile& tile);  // UsesIntegers

}  // namespace tandem::kernels
