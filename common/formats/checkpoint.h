// A model on disk, whatever its format: configuration, tensors by their Hugging Face names, tokenizer
// sources.
//
//   ASSIGN_OR_RETURN(auto checkpoint, Checkpoint::Open(path));   // a .gguf file or a Hugging Face directory
//   checkpoint->config().num_layers;
//   ASSIGN_OR_RETURN(TensorView w, checkpoint->Tensor("model.layers.0.self_attn.q_proj.weight", {out, in}));
//
// Files are memory-mapped read-only; views borrow from the checkpoint. Every length and offset has been
// checked against the file's size before it is used. Immutable after Open, hence thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/formats/model_config.h"
#include "common/formats/tensor.h"

namespace tandem::formats {

class GgufFile;

// GGUF files of architecture llama hold the rows of q_proj and k_proj permuted within each head: file row
// 2j+half is row half * head_dim/2 + j in Hugging Face's order. `kInterleavedPairs` says so; the user undoes
// it by rows.
enum class RowOrder { kPlain, kInterleavedPairs };

class Checkpoint {
 public:
  // Errors name the file and the tensor or field.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);
  virtual ~Checkpoint() = default;

  const ModelConfig& config() const { return config_; }
  const std::string& path() const { return path_; }

  // Tensors under Hugging Face names, also for GGUF ("model.layers.3.mlp.up_proj.weight",
  // "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"). kNotFound if absent,
  // kInvalidArgument if of another shape. Open has made sure that all tensors of config() are there, of its
  // shapes and of types that Dequantize knows; lm_head.weight is there exactly if the embedding is not tied.
  // The view keeps the file's own name.
  virtual absl::StatusOr<TensorView> Tensor(const std::string& name,
                                            const std::vector<int64_t>& shape) const = 0;
  virtual bool HasTensor(const std::string& name) const = 0;
  virtual RowOrder QkRowOrder() const = 0;
  // Norm weights are stored as w and used as 1 + w.
  virtual bool NormsAddOne() const = 0;

  // SHA-256 (hex) over the lines "name dtype shape sha256-of-raw-bytes" (each ended by a newline) sorted by
  // name; names, dtypes and shapes as stored in the file, shapes spelled "[576,1536]". All tensors of the
  // file count, also those that the model does not use. Reads the whole file; computed at the first call.
  virtual const std::string& Fingerprint() const = 0;
  virtual int64_t TensorBytes() const = 0;  // of those the model uses

  // Where the tokenizer and the chat template come from: GGUF metadata, or tokenizer.json and
  // chat_template.jinja / tokenizer_config.json / chat_template.json. Exactly one of gguf and tokenizer_json
  // is set when there is any.
  struct TextSources {
    const GgufFile* gguf = nullptr;
    std::string tokenizer_json;         // file content
    std::string tokenizer_config_json;  // file content, empty if absent
    std::string chat_template;          // Jinja source, empty if absent
    std::string bos_token, eos_token;   // as the template sees them, empty if unknown
    int64_t vocab_size = 0;             // ids that the model knows
  };
  virtual absl::StatusOr<TextSources> ReadTextSources() const = 0;

 protected:
  ModelConfig config_;
  std::string path_;
};

}  // namespace tandem::formats
