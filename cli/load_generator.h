// Sends chat requests to a gateway, closed loop (a fixed number in flight) or open loop (Poisson arrivals).
//
// TTFT: from sending the request to the first text. TPOT = (end - first text) / (tokens - 1) of one request:
// the speed figure, since with bursts the gaps between deliveries say little.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/option_values.h"

namespace tandem::cli {

struct LoadOptions {
  Address http;
  std::string model = "default";
  std::vector<std::vector<std::string>> prompts;  // user turns; only the first of each is sent
  int num_requests = 32;
  int concurrency = 1;  // closed loop
  double rate = 0;      // requests per second; > 0: open loop, and concurrency is not used
  int64_t max_tokens = 128;
  double temperature = 0;
  uint64_t seed = 1;  // of arrivals and, + request number, of each request
};

struct RequestResult {
  absl::Status status;
  absl::Duration queued;  // open loop: from the arrival to a free connection; ~0 unless the generator is late
  absl::Duration first_text;  // TTFT
  absl::Duration total;
  int64_t prompt_tokens = 0, output_tokens = 0;
};

struct LoadResult {
  std::vector<RequestResult> requests;
  absl::Duration wall;
  absl::Duration generator_cpu;  // of this process: the load generator must not be the bottleneck
};

LoadResult RunLoad(const LoadOptions& options);

// {"turns": ["...", ...]} per line. Errors name file and line.
absl::StatusOr<std::vector<std::vector<std::string>>> ReadPrompts(const std::string& path);
// `count` of them (all if there are fewer), drawn without repetition; equal for equal seeds.
std::vector<std::vector<std::string>> SamplePrompts(std::vector<std::vector<std::string>> prompts,
                                                    size_t count, uint64_t seed);
// A few questions of several kinds, for a bench without a file.
std::vector<std::vector<std::string>> BuiltInPrompts();

// The value below which `fraction` of the values lie (nearest rank). `values` is sorted by the call; 0 if
// empty.
double Percentile(std::vector<double>& values, double fraction);

}  // namespace tandem::cli
