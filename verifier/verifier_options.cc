#include "verifier/verifier_options.h"

#include <algorithm>
#include <thread>

#include "common/base/status.h"
#include "common/kernels/types.h"

namespace tandem::verifier {
namespace {

constexpr int64_t kMaxKvBytes = int64_t{1} << 44;
constexpr int kMaxThreads = 1024;
constexpr int kMaxSequences = 4096;
constexpr int kMaxModelLen = 1 << 24;

}  // namespace

void AddVerifierOptions(OptionParser& parser, VerifierOptions* options) {
  parser.AddString(
      "model", &options->model,
      "Model to serve: a .gguf file, a Hugging Face directory, or a name known to `tandem pull`");
  parser.AddAddress("listen", &options->listen, "gRPC address for gateways; port 0: any free one");
  parser.AddAddress("metrics", &options->metrics, "HTTP address of /metrics; port 0: any free one");
  parser.AddFlag("insecure", &options->insecure, "Allow --listen beyond this machine, without TLS");
  parser.AddChoice("device", &options->device, {"cpu"}, "What computes");
  parser.AddInteger("threads", &options->threads, 0, kMaxThreads,
                    "Threads of a step; 0: one per CPU that the process may use");
  parser.AddChoice("dtype", &options->dtype, {"auto", "f32", "bf16", "int8", "q4"},
                   "How weights are held; auto: what the file holds, without loss");
  parser.AddChoice("activations", &options->activations, {"f32", "bf16", "int8"},
                   "What inputs of matrix products are rounded to");
  parser.AddChoice("kv-dtype", &options->kv_dtype, {"f32", "bf16"}, "Type of the KV cache");
  parser.AddBytes("kv-bytes", &options->kv_bytes, 0, kMaxKvBytes,
                  "Memory of the KV cache; 0: a quarter of what is free at start");
  parser.AddSwitch("prefix-cache", &options->prefix_cache, "Share the KV of equal prompt beginnings");
  parser.AddInteger("prefill-chunk", &options->prefill_chunk, 1, models::kMaxStepTokens,
                    "Prompt tokens of one sequence and step at most");
  parser.AddInteger("max-step-tokens", &options->max_step_tokens, 1, models::kMaxStepTokens,
                    "Tokens of one step at most, all sequences together");
  parser.AddInteger("max-num-seqs", &options->max_num_seqs, 1, kMaxSequences,
                    "Sequences in KV memory at once");
  parser.AddInteger("max-model-len", &options->max_model_len, 0, kMaxModelLen,
                    "Prompt and output together, tokens; 0: the model's context");
  parser.AddDuration("drain-delay", &options->drain_delay, absl::ZeroDuration(), absl::Minutes(10),
                     "After SIGTERM, how long to go on as before while not ready");
  parser.AddDuration("drain-timeout", &options->drain_timeout, absl::ZeroDuration(), absl::Hours(1),
                     "After that, how long running sequences may take to end");
  telemetry::AddLogOptions(parser, &options->log);
}

absl::Status CheckVerifierOptions(const VerifierOptions& options) {
  if (options.model.empty()) return InvalidArgument("--model is required");
  if (options.max_num_seqs > options.max_step_tokens) {
    return InvalidArgument(
        "--max-num-seqs must not exceed --max-step-tokens ({}), since each sequence has a token "
        "in each step; got {}",
        options.max_step_tokens, options.max_num_seqs);
  }
  return absl::OkStatus();
}

int NumThreads(const VerifierOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

models::ModelOptions ToModelOptions(const VerifierOptions& options) {
  models::ModelOptions model;
  if (options.dtype != "auto") model.weight_type = kernels::ParseWeightType(options.dtype);
  model.activation_type = *kernels::ParseActivationType(options.activations);
  model.kv_type = *kernels::ParseKvType(options.kv_dtype);
  model.max_step_tokens = options.max_step_tokens;
  model.max_logits_rows = options.max_step_tokens;
  model.max_positions = options.max_model_len;
  return model;
}

EngineOptions ToEngineOptions(const VerifierOptions& options) {
  EngineOptions engine;
  engine.kv_bytes = options.kv_bytes;
  engine.max_sequences = options.max_num_seqs;
  engine.max_step_tokens = options.max_step_tokens;
  engine.prefill_chunk = std::min(options.prefill_chunk, options.max_step_tokens);
  engine.prefix_cache = options.prefix_cache;
  return engine;
}

}  // namespace tandem::verifier
