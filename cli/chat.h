// `tandem chat`: a conversation on the terminal.
#pragma once

namespace tandem::cli {

int ChatMain(int argc, const char* const* argv);

}  // namespace tandem::cli
