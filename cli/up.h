// `tandem up`: the whole system on this machine.
#pragma once

namespace tandem::cli {

int UpMain(int argc, const char* const* argv);

}  // namespace tandem::cli
