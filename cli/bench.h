// `tandem bench`: load on a running gateway, and what it did to latency and throughput.
#pragma once

namespace tandem::cli {

int BenchMain(int argc, const char* const* argv);

}  // namespace tandem::cli
