#include "verifier/verifier_options.h"

#include <algorithm>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/base/model_store.h"
#include "common/base/status.h"
#include "common/formats/model_digest.h"
#include "common/kernels/types.h"
#include "verifier/engine/capture_engine.h"

namespace tandem::verifier {
namespace {

constexpr int64_t kMaxKvBytes = int64_t{1} << 44;
constexpr int kMaxThreads = 1024;
constexpr int kMaxSequences = 4096;
constexpr int kMaxModelLen = 1 << 24;
constexpr int kMaxCudaDevice = 255;

}  // namespace

void AddVerifierOptions(OptionParser& parser, VerifierOptions* options) {
  parser.AddString(
      "model", &options->model,
      "Model to serve: a .gguf file, a Hugging Face directory, or a name known to `tandem pull`. "
      "MEASUREMENTS ONLY, the text means nothing: scripted[:MODEL] has MODEL's tokenizer, no weights, and "
      "tokens from "
      "a table, to see what all but the model costs");
  parser.AddString("model-sha256", &options->model_sha256,
                   "Refuse any other model than that of this SHA-256 (README says how it is computed)");
  parser.AddAddress("listen", &options->listen, "gRPC address for gateways; port 0: any free one");
  parser.AddAddress("metrics", &options->metrics, "HTTP address of /metrics; port 0: any free one");
  parser.AddFlag("insecure", &options->insecure, "Allow --listen beyond this machine, without TLS");
  parser.AddString(
      "device", &options->device,
      "What computes the model: cpu, or cuda:N (cuda is cuda:0), where the build has that backend");
  parser.AddFlag(
      "deterministic", &options->deterministic,
      "On CUDA: the text does not depend on what shares a step, as it never does on the CPU; slower");
  parser.AddInteger("threads", &options->threads, 0, kMaxThreads,
                    "Threads of a step; 0: one per CPU that the process may use");
  parser.AddChoice("dtype", &options->dtype, {"auto", "f32", "bf16", "int8", "q4"},
                   "How weights are held; auto: what the file holds, without loss");
  parser.AddChoice("activations", &options->activations, {"auto", "f32", "bf16", "int8"},
                   "What inputs of matrix products are rounded to; auto: int8 on the CPU, bf16 on CUDA, "
                   "which has no int8");
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
  parser.AddAddressList("drafter", &options->drafters,
                        "Drafters to ask for drafts; sequences are spread over them. None: no speculation");
  parser.AddString(
      "policy", &options->policy,
      "How many drafts to check: off, fixed:K, threshold:C, or prefix (what pays at the present load)");
  parser.AddChoice(
      "acceptance", &options->acceptance, {"coupled", "rejection"},
      "coupled: the text never depends on drafts; rejection: the classical rule, equal in law only");
  parser.AddInteger("max-draft-tokens", &options->max_draft_tokens, 1, speculation::kMaxBlockSize,
                    "Drafts checked per sequence and step at most");
  parser.AddChoice("row-dtype", &options->row_dtype, {"bf16", "f32"},
                   "Type of the hidden rows kept for drafters");
  parser.AddChoice(
      "row-transport", &options->row_transport, {"auto", "shm", "inline"},
      "How hidden rows travel; auto: shared memory to drafters on this machine; shm: no others; inline: "
      "all through gRPC, feeds and drafts too");
  parser.AddChoice("run-transport", &options->run_transport, {"auto", "grpc"},
                   "How plans and reports travel; auto: a Unix socket to gateways on this machine; grpc: all "
                   "through gRPC");
  parser.AddInteger("draft-top-m", &options->draft_top_m, 1, speculation::kMaxTopM,
                    "With --acceptance=rejection: tokens of a draft's distribution that drafters send");
  parser.AddString(
      "synthetic-acceptance", &options->synthetic_acceptance,
      "BENCHMARKS ONLY, the text becomes meaningless: probabilities P1,P2,.. with which the draft at "
      "each position is accepted, whatever the model says");
  parser.AddString("trace", &options->trace,
                   "File to which every decision on drafts is written, for tandem replay");
  parser.AddDuration("scripted-step", &options->scripted_step, absl::ZeroDuration(), absl::Seconds(10),
                     "With --model=scripted: what a step takes, computed nowhere; 0: no time");
  parser.AddFlag("profile", &options->profile,
                 "Also time the stages of forward passes: series step_stage_*, for tandem bench --profile");
  parser.AddFlag("capture", &options->capture,
                 "Serve texts and hidden states to a trainer on this machine, and no gateways");
  parser.AddDuration("drain-delay", &options->drain_delay, absl::ZeroDuration(), absl::Minutes(10),
                     "After SIGTERM, how long to go on as before while not ready");
  parser.AddDuration("drain-timeout", &options->drain_timeout, absl::ZeroDuration(), absl::Hours(1),
                     "After that, how long running sequences may take to end");
  telemetry::AddLogOptions(parser, &options->log);
}

// "0.8,0.75": each in 0..1, at most as many as a block has.
absl::StatusOr<std::vector<double>> ParseSyntheticAcceptance(const std::string& text) {
  std::vector<double> probabilities;
  if (text.empty()) return probabilities;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const absl::StatusOr<double> p = ParseNumber(std::string_view(part.data(), part.size()));
    if (!p.ok() || *p < 0 || *p > 1) {
      return InvalidArgument("--synthetic-acceptance must be probabilities separated by commas, got {}",
                             text);
    }
    probabilities.push_back(*p);
  }
  if (probabilities.size() > speculation::kMaxBlockSize) {
    return InvalidArgument("--synthetic-acceptance must have at most {} probabilities, got {}",
                           speculation::kMaxBlockSize, probabilities.size());
  }
  return probabilities;
}

// "cpu": none; "cuda" or "cuda:N".
absl::StatusOr<std::optional<int>> ParseDevice(const std::string& device) {
  constexpr std::string_view kCuda = "cuda";
  if (device == "cpu") return std::nullopt;
  if (device == kCuda) return 0;
  int index = -1;
  if (!device.starts_with("cuda:") || !absl::SimpleAtoi(device.substr(kCuda.size() + 1), &index) ||
      index < 0 || index > kMaxCudaDevice || device != fmt::format("cuda:{}", index)) {
    return InvalidArgument("--device must be cpu, cuda or cuda:N with N from 0 to {}, got {}", kMaxCudaDevice,
                           device);
  }
  return index;
}

absl::Status CheckVerifierOptions(const VerifierOptions& options) {
  if (options.model.empty()) return InvalidArgument("--model is required");
  ASSIGN_OR_RETURN(const std::optional<int> cuda_device, ParseDevice(options.device));
  if (cuda_device.has_value() && options.profile) {
    return InvalidArgument("--profile times stages on the CPU, not with --device={}", options.device);
  }
  if (cuda_device.has_value() && ScriptedModelOf(options.model)) {
    return InvalidArgument("--model=scripted computes nothing, not with --device={}", options.device);
  }
  RETURN_IF_ERROR(formats::CheckDigestOption(options.model_sha256));
  if (options.max_num_seqs > options.max_step_tokens) {
    return InvalidArgument(
        "--max-num-seqs must not exceed --max-step-tokens ({}), since each sequence has a token "
        "in each step; got {}",
        options.max_step_tokens, options.max_num_seqs);
  }
  if (options.scripted_step > absl::ZeroDuration() && !ScriptedModelOf(options.model)) {
    return InvalidArgument("--scripted-step is of --model=scripted[:MODEL] only");
  }
  if (options.capture && !options.listen.is_local()) {
    return InvalidArgument(
        "--capture shows texts to whoever connects: --listen must stay on this machine, got {}",
        options.listen.ToString());
  }
  if (options.capture && (!options.drafters.empty() || !options.trace.empty() || options.profile))
    return InvalidArgument(
        "--capture goes with none of --drafter, --trace and --profile, for nothing is drafted");
  if (options.capture && ScriptedModelOf(options.model))
    return InvalidArgument("--capture needs a model with weights, not --model={}", options.model);
  RETURN_IF_ERROR(ParseWindowPolicy(options.policy).status());
  RETURN_IF_ERROR(ParseSyntheticAcceptance(options.synthetic_acceptance).status());
  return absl::OkStatus();
}

std::optional<std::string> ScriptedModelOf(const std::string& model) {
  constexpr std::string_view kScripted = "scripted";
  if (model == kScripted) return kDefaultModel;
  if (!model.starts_with("scripted:")) return std::nullopt;
  return model.substr(kScripted.size() + 1);
}

int NumThreads(const VerifierOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

models::ModelOptions ToModelOptions(const VerifierOptions& options) {
  models::ModelOptions model;
  if (options.dtype != "auto") model.weight_type = kernels::ParseWeightType(options.dtype);
  model.cuda_device = *ParseDevice(options.device);
  model.deterministic = options.deterministic;
  if (options.activations != "auto") {
    model.activation_type = *kernels::ParseActivationType(options.activations);
  } else if (model.cuda_device.has_value()) {
    model.activation_type = kernels::ActivationType::kBF16;
  }
  model.kv_type = *kernels::ParseKvType(options.kv_dtype);
  model.max_step_tokens = options.max_step_tokens;
  model.max_logits_rows = options.max_step_tokens;
  model.max_positions = options.max_model_len;
  if (options.capture) model.max_taps = kMaxCaptureLayers;
  return model;
}

EngineOptions ToEngineOptions(const VerifierOptions& options) {
  EngineOptions engine;
  engine.kv_bytes = options.kv_bytes;
  engine.max_sequences = options.max_num_seqs;
  engine.max_step_tokens = options.max_step_tokens;
  engine.prefill_chunk = std::min(options.prefill_chunk, options.max_step_tokens);
  engine.prefix_cache = options.prefix_cache;
  engine.max_draft_tokens = options.max_draft_tokens;
  SpeculationOptions& speculation = engine.speculation;
  speculation.num_drafters = static_cast<int>(options.drafters.size());
  speculation.policy = *ParseWindowPolicy(options.policy);
  speculation.acceptance = options.acceptance == "rejection" ? speculation::AcceptanceMode::kRejection
                                                             : speculation::AcceptanceMode::kCoupled;
  speculation.top_m = options.draft_top_m;
  speculation.row_type =
      options.row_dtype == "f32" ? speculation::RowType::kF32 : speculation::RowType::kBF16;
  speculation.only_shared_memory = options.row_transport == "shm";
  speculation.synthetic_acceptance = *ParseSyntheticAcceptance(options.synthetic_acceptance);
  return engine;
}

}  // namespace tandem::verifier
