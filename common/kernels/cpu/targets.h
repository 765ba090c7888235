// The instruction sets that kernels are compiled for. Include before any Highway header, first in each file
// that uses foreach_target.h.
//
// AVX2, AVX3 (AVX-512 F, BW, DQ, VL) and AVX3_DL (with VNNI) on x86, NEON on ARM, and plain C++ everywhere.
// SSE has no fused multiply-add; SVE's vectors have no compile-time length, which register tiles need.
#pragma once

#define HWY_WANT_AVX3_DL
#define HWY_COMPILE_ALL_ATTAINABLE  // the plain version too, for machines without any of the others, and for
                                    // tests
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

#include "hwy/detect_targets.h"

#define TANDEM_SCALAR_TARGET HWY_BASELINE_SCALAR
