#include "drafter/drafter_options.h"

#include <algorithm>
#include <thread>

#include "common/base/status.h"
#include "common/formats/model_digest.h"
#include "common/kernels/kv_cache.h"
#include "common/kernels/types.h"
#include "common/speculation/messages.h"

namespace tandem::drafter {
namespace {

constexpr int64_t kMaxKvBytes = int64_t{1} << 44;
constexpr int kMaxThreads = 1024;
constexpr int kMaxSequences = 65536;
constexpr int kMaxRowWindow = 1 << 20;
constexpr int kMaxVocab = 1 << 24;
// By default, contexts of this length for all sequences at most; longer ones share what there is.
constexpr int64_t kUsualContext = 8192;

}  // namespace

void AddDrafterOptions(OptionParser& parser, DrafterOptions* options) {
  parser.AddString("model", &options->model,
                   "Draft model: a directory, a name, `default` (the target's own), ngram, random, or "
                   "scripted:FILE (tests)");
  parser.AddString("target", &options->target,
                   "The model that is drafted for, as tandem-verifier's --model; not needed by ngram");
  parser.AddString("model-sha256", &options->model_sha256,
                   "Refuse any other draft model than that of this SHA-256 (README says how it is computed)");
  parser.AddAddress("listen", &options->listen, "gRPC address for verifiers; port 0: any free one");
  parser.AddAddress("metrics", &options->metrics, "HTTP address of /metrics; port 0: any free one");
  parser.AddFlag("insecure", &options->insecure, "Allow --listen beyond this machine, without TLS");
  parser.AddInteger("threads", &options->threads, 0, kMaxThreads,
                    "Threads of a step; 0: one per CPU that the process may use");
  parser.AddChoice(
      "dtype", &options->dtype, {"auto", "f32", "bf16", "int8", "q4"},
      "How weights are held; auto: int8, since precision can cost acceptance but never change text");
  parser.AddChoice("activations", &options->activations, {"f32", "bf16", "int8"},
                   "What inputs of matrix products are rounded to");
  parser.AddChoice("kv-dtype", &options->kv_dtype, {"f32", "bf16", "int8"},
                   "Type of the context's KV; int8: half of bf16's memory for a little acceptance");
  parser.AddBytes("kv-bytes", &options->kv_bytes, 0, kMaxKvBytes,
                  "Memory of contexts; 0: an eighth of the memory, at most what --max-sequences need");
  parser.AddInteger(
      "markov-top-k", &options->markov_top_k, 0, kMaxVocab,
      "The sequential head scores this many of the best tokens of each position; 0: all, as trained");
  parser.AddInteger("draft-vocab", &options->draft_vocab, kUsualDraftVocab, kMaxVocab,
                    "Draft among this many of the checkpoint's most frequent tokens; 0: all it has; -1: 8192 "
                    "where it lists them, else all");
  parser.AddInteger("block-size", &options->block_size, 1, speculation::kMaxBlockSize,
                    "Drafts of a round, for ngram and random; other models have their own");
  parser.AddInteger("max-sequences", &options->max_sequences, 1, kMaxSequences,
                    "Sequences that each verifier may keep here");
  parser.AddInteger("row-window", &options->row_window, 64, kMaxRowWindow,
                    "Hidden rows that each verifier may send ahead of the model");
  parser.AddChoice("row-transport", &options->row_transport, {"auto", "inline"},
                   "How hidden rows come; auto: shared memory from verifiers on this machine");
  telemetry::AddLogOptions(parser, &options->log);
}

absl::Status CheckDrafterOptions(const DrafterOptions& options) {
  if (options.model.empty()) return InvalidArgument("--model is required");
  const bool needs_no_target = options.model == "ngram" || options.model.starts_with("scripted:");
  if (options.target.empty() && !needs_no_target)
    return InvalidArgument("--target is required with --model {}", options.model);
  RETURN_IF_ERROR(formats::CheckDigestOption(options.model_sha256));
  if (!options.model_sha256.empty() && (options.model == "ngram" || options.model == "random"))
    return InvalidArgument("--model-sha256 is for models with files, --model is {}", options.model);
  if (!options.insecure && !options.listen.is_local()) {
    return InvalidArgument("--listen {} reaches beyond this machine without TLS; allow it with --insecure",
                           options.listen.ToString());
  }
  return absl::OkStatus();
}

int NumThreads(const DrafterOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMaxThreads);
}

DraftModelOptions ToDraftModelOptions(const DrafterOptions& options, const std::string& path,
                                      const formats::Checkpoint* target) {
  DraftModelOptions model;
  model.path = path;
  model.target = target;
  model.weight_type = kernels::ParseWeightType(options.dtype == "auto" ? "int8" : options.dtype);
  model.activation_type = *kernels::ParseActivationType(options.activations);
  model.kv_type = *kernels::ParseKvType(options.kv_dtype);
  model.markov_top_k = options.markov_top_k;
  model.draft_vocab = options.draft_vocab;
  return model;
}

DraftEngineOptions ToDraftEngineOptions(const DrafterOptions& options, const DraftModel& model,
                                        int64_t memory_bytes) {
  DraftEngineOptions engine;
  engine.max_sequences = options.max_sequences;
  engine.row_window = options.row_window;
  engine.kv_bytes = options.kv_bytes;
  if (engine.kv_bytes == 0) {
    const int64_t longest = model.info().max_positions;
    const int64_t positions = longest > 0 ? std::min(longest, kUsualContext) : kUsualContext;
    const int64_t blocks = (positions + kernels::kKvBlockPositions - 1) / kernels::kKvBlockPositions + 1;
    engine.kv_bytes =
        std::min(memory_bytes / 8, blocks * options.max_sequences * model.kv_layout().block_bytes);
  }
  return engine;
}

}  // namespace tandem::drafter
