// `tandem doctor`: whether this machine can run Tandem, and what to do where not; and health probes for
// operators.
#pragma once

namespace tandem::cli {

int DoctorMain(int argc, const char* const* argv);

}  // namespace tandem::cli
