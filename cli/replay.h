// `tandem replay`: another window policy over a recorded trace of decisions.
#pragma once

namespace tandem::cli {

int ReplayMain(int argc, const char* const* argv);

}  // namespace tandem::cli
