#include <utility>

#include "common/base/status.h"
#include "common/formats/checkpoint_readers.h"
#include "common/formats/checkpoint_tensors.h"
#include "common/formats/gguf.h"
#include "common/formats/gguf_config.h"

namespace tandem::formats {
namespace {

class GgufCheckpoint : public Checkpoint {
 public:
  GgufCheckpoint(std::string path, ModelConfig config, std::unique_ptr<GgufFile> file,
                 std::unique_ptr<CheckpointTensors> tensors)
      : file_(std::move(file)), tensors_(std::move(tensors)) {
    config_ = std::move(config);
    path_ = std::move(path);
  }

  absl::StatusOr<TensorView> Tensor(const std::string& name,
                                    const std::vector<int64_t>& shape) const override {
    auto tensor = tensors_->Tensor(name, shape);
    if (!tensor.ok()) return Annotate(tensor.status(), path_);
    return tensor;
  }
  bool HasTensor(const std::string& name) const override { return tensors_->HasTensor(name); }
  RowOrder QkRowOrder() const override {
    return config_.family == ModelFamily::kLlama ? RowOrder::kInterleavedPairs : RowOrder::kPlain;
  }
  bool NormsAddOne() const override { return false; }  // the sum is stored
  const std::string& Fingerprint() const override { return tensors_->Fingerprint(); }
  int64_t TensorBytes() const override { return tensors_->TensorBytes(); }

  absl::StatusOr<TextSources> ReadTextSources() const override {
    TextSources sources;
    sources.vocab_size = config_.vocab_size;
    const std::vector<std::string>* tokens = file_->GetStrings("tokenizer.ggml.tokens");
    if (tokens == nullptr) return sources;  // a model without a vocabulary
    sources.gguf = file_.get();
    if (file_->metadata().contains("tokenizer.chat_template")) {
      auto chat_template = file_->GetString("tokenizer.chat_template");
      if (!chat_template.ok()) return Annotate(chat_template.status(), path_);
      sources.chat_template = *std::move(chat_template);
    }
    const auto token = [&](int32_t id) {
      return std::cmp_less(id, tokens->size()) ? (*tokens)[id] : std::string();
    };
    if (config_.bos_token_id.has_value()) sources.bos_token = token(*config_.bos_token_id);
    if (file_->metadata().contains("tokenizer.ggml.eos_token_id")) {
      sources.eos_token = token(config_.eos_token_ids.front());
    }
    return sources;
  }

 private:
  const std::unique_ptr<GgufFile> file_;  // what tensors_ borrows from
  const std::unique_ptr<CheckpointTensors> tensors_;
};

absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path, std::unique_ptr<GgufFile> file) {
  ASSIGN_OR_RETURN(ModelConfig config, ConfigFromGguf(*file));
  const bool rope_freqs_used = config.family == ModelFamily::kLlama;
  ASSIGN_OR_RETURN(
      auto tensors,
      CheckpointTensors::Create(config, file->tensors(), NameScheme::kGguf, [&](const std::string& name) {
        return rope_freqs_used && name == "rope_freqs.weight";
      }));
  return std::make_unique<GgufCheckpoint>(path, std::move(config), std::move(file), std::move(tensors));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGgufCheckpoint(const std::string& path) {
  ASSIGN_OR_RETURN(auto file, GgufFile::Open(path));
  auto checkpoint = Open(path, std::move(file));
  if (absl::IsNotFound(checkpoint.status())) {  // a required key, not the file
    return InvalidArgument("{}: {}", path, std::string(checkpoint.status().message()));
  }
  if (!checkpoint.ok()) return Annotate(checkpoint.status(), path);
  return checkpoint;
}

}  // namespace tandem::formats
