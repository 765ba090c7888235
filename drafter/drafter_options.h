// The flags of tandem-drafter.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "common/base/option_values.h"
#include "common/base/options.h"
#include "common/telemetry/logs.h"
#include "drafter/engine/draft_engine.h"
#include "drafter/models/draft_model_options.h"

namespace tandem::drafter {

struct DrafterOptions {
  std::string model;         // required: what drafter_store.h resolves
  std::string model_sha256;  // of it, formats::ModelDigest; empty: any
  std::string target;        // its checkpoint; neural and random drafters need it
  Address listen{"127.0.0.1", 8021, ""};
  Address metrics{"127.0.0.1", 8022, ""};
  bool insecure = false;

  int threads = 0;  // of a step; 0 = all that the process may use
  std::string dtype = "auto";
  std::string activations = "int8";
  std::string kv_dtype = "bf16";
  int64_t kv_bytes = 0;
  int markov_top_k = 64;
  int draft_vocab = kUsualDraftVocab;
  int block_size = 7;  // of ngram and random
  int max_sequences = 256;
  int row_window = 4096;
  std::string row_transport = "auto";
  telemetry::LogOptions log{.service = "tandem-drafter"};
};

void AddDrafterOptions(OptionParser& parser, DrafterOptions* options);

// What no single flag can be blamed for; kInvalidArgument is bad usage.
absl::Status CheckDrafterOptions(const DrafterOptions& options);

// The parts as model and engine want them. Require checked options.
int NumThreads(const DrafterOptions& options);
DraftModelOptions ToDraftModelOptions(const DrafterOptions& options, const std::string& path,
                                      const formats::Checkpoint* target);
// kv_bytes: as configured, or an eighth of `memory_bytes`, at most what the sequences of a busy verifier
// need.
DraftEngineOptions ToDraftEngineOptions(const DrafterOptions& options, const DraftModel& model,
                                        int64_t memory_bytes);

}  // namespace tandem::drafter
