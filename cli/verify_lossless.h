// `tandem verify-lossless`: shows on this machine, with this model, that speculation does not change the
// text.
#pragma once

namespace tandem::cli {

// Exit code 0: shown. 1: a difference, a failed request, or nothing that could have made a difference (no
// draft accepted, none rejected, no fault during a stream).
int VerifyLosslessMain(int argc, const char* const* argv);

}  // namespace tandem::cli
