// The flags of tandem-verifier.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/option_values.h"
#include "common/base/options.h"
#include "common/models/model.h"
#include "common/telemetry/logs.h"
#include "verifier/engine/engine.h"

namespace tandem::verifier {

struct VerifierOptions {
  std::string model;         // required; see also ScriptedModelOf
  std::string model_sha256;  // formats::ModelDigest; empty: any
  Address listen{"127.0.0.1", 8011, ""};
  Address metrics{"127.0.0.1", 8012, ""};
  bool insecure = false;

  std::string device = "cpu";
  bool deterministic = false;
  int threads = 0;  // of a step; 0 = all that the process may use
  std::string dtype = "auto";
  std::string activations = "auto";
  std::string kv_dtype = "bf16";
  int64_t kv_bytes = 0;
  bool prefix_cache = true;
  int prefill_chunk = 256;
  int max_step_tokens = 512;
  int max_num_seqs = 64;
  int max_model_len = 0;  // 0 = the model's context

  std::vector<Address> drafters;  // empty: no speculation
  std::string policy = "prefix";
  std::string acceptance = "coupled";
  int max_draft_tokens = 7;
  std::string row_dtype = "bf16";
  std::string row_transport = "auto";
  std::string run_transport = "auto";
  int draft_top_m = 64;
  std::string synthetic_acceptance;                     // probabilities by position, separated by commas
  std::string trace;                                    // file for decisions; empty: none
  absl::Duration scripted_step = absl::ZeroDuration();  // what a step of a scripted model takes
  bool profile = false;                                 // series step_stage_*
  bool capture = false;                                 // serves capture.proto to a trainer, and no gateways

  absl::Duration drain_delay = absl::Seconds(5);
  absl::Duration drain_timeout = absl::Seconds(30);
  telemetry::LogOptions log{.service = "tandem-verifier"};
};

void AddVerifierOptions(OptionParser& parser, VerifierOptions* options);

// What no single flag can be blamed for; kInvalidArgument is bad usage.
absl::Status CheckVerifierOptions(const VerifierOptions& options);

// "scripted:MODEL" or "scripted" (the default model): MODEL's tokenizer and sizes, tokens from a table.
// nullopt: a real one.
std::optional<std::string> ScriptedModelOf(const std::string& model);

// The parts as model and engine want them. Requires checked options.
int NumThreads(const VerifierOptions& options);
models::ModelOptions ToModelOptions(const VerifierOptions& options);
EngineOptions ToEngineOptions(const VerifierOptions& options);

}  // namespace tandem::verifier
