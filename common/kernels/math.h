// The kernels' own exp, so that every target and every libm gives the same bits.
#pragma once

namespace tandem::kernels {

// e^x within 2 units in the last place, exactly 1 at 0. Below -87.33 (results that would be subnormal) and
// for -infinity it is 0; from 88.72 on infinity; NaN stays NaN.
float Exp(float x);

}  // namespace tandem::kernels
