#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "common/base/status.h"
#include "common/formats/checkpoint_readers.h"
#include "common/formats/checkpoint_tensors.h"
#include "common/formats/json.h"
#include "common/formats/mapped_file.h"
#include "common/formats/model_directory.h"
#include "common/formats/safetensors.h"

namespace tandem::formats {
namespace {

using nlohmann::json;

// The largest published ones: tokenizer.json 34 MB (Gemma), tokenizer_config.json 1.2 MB, configs a few kB.
constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxTokenizerBytes = 256 << 20;
constexpr size_t kMaxTokenizerConfigBytes = 32 << 20;
constexpr size_t kMaxTemplateBytes = 1 << 20;

absl::StatusOr<std::string> ReadInside(const std::string& directory, const char* name, size_t max_bytes) {
  ASSIGN_OR_RETURN(const std::string path, ResolveInside(directory, name));
  return ReadTextFile(path, max_bytes);
}

// Empty if there is no such file.
absl::StatusOr<std::string> ReadOptional(const std::string& directory, const char* name, size_t max_bytes) {
  auto text = ReadInside(directory, name, max_bytes);
  if (absl::IsNotFound(text.status())) return std::string();
  return text;
}

// A token is written as its text or as an object with its text in `content`; anything else counts as unknown.
std::string TokenText(const json& config, const char* field) {
  const auto found = config.find(field);
  if (found == config.end()) return "";
  const json* text = &*found;
  if (text->is_object() && text->contains("content")) text = &(*text)["content"];
  return text->is_string() ? text->get<std::string>() : "";
}

// chat_template is Jinja source, or a list of {name, template} of which the one called default counts.
std::string TemplateText(const json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) return "";
  for (const json& entry : *found) {
    if (entry.is_object() && entry.value("name", json()) == "default" && entry.contains("template") &&
        entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

// tokenizer_config.json as an object; empty if there is none.
absl::StatusOr<json> ParseTokenizerConfig(const std::string& directory, const std::string& text) {
  if (text.empty()) return json::object();
  auto config = ParseJson(text);
  if (!config.ok()) return Annotate(config.status(), directory + "/tokenizer_config.json");
  if (!config->is_object()) return InvalidArgument("{}/tokenizer_config.json: is no JSON object", directory);
  return config;
}

// The id of the token that tokenizer_config.json calls the end: in a chat model that of a turn, which
// config.json need not list. Its table of added tokens, where it has one, says the id.
std::optional<int32_t> EosIdOf(const json& tokenizer_config, int64_t vocab_size) {
  const std::string text = TokenText(tokenizer_config, "eos_token");
  const auto table = tokenizer_config.find("added_tokens_decoder");
  if (text.empty() || table == tokenizer_config.end() || !table->is_object()) return std::nullopt;
  for (const auto& [written, token] : table->items()) {
    int32_t id = 0;
    const auto [end, error] = std::from_chars(written.data(), written.data() + written.size(), id);
    if (error != std::errc() || end != written.data() + written.size()) continue;
    if (id >= 0 && id < vocab_size && token.is_object() && token.value("content", json()) == text) return id;
  }
  return std::nullopt;
}

class HfCheckpoint : public Checkpoint {
 public:
  HfCheckpoint(std::string path, ModelConfig config, std::unique_ptr<SafetensorsFile> file,
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
  RowOrder QkRowOrder() const override { return RowOrder::kPlain; }
  bool NormsAddOne() const override { return config_.traits().norms_add_one; }
  const std::string& Fingerprint() const override { return tensors_->Fingerprint(); }
  int64_t TensorBytes() const override { return tensors_->TensorBytes(); }

  absl::StatusOr<TextSources> ReadTextSources() const override {
    TextSources sources;
    sources.vocab_size = config_.vocab_size;
    ASSIGN_OR_RETURN(sources.tokenizer_json, ReadOptional(path_, "tokenizer.json", kMaxTokenizerBytes));
    ASSIGN_OR_RETURN(sources.tokenizer_config_json,
                     ReadOptional(path_, "tokenizer_config.json", kMaxTokenizerConfigBytes));
    ASSIGN_OR_RETURN(sources.chat_template, ReadOptional(path_, "chat_template.jinja", kMaxTemplateBytes));
    ASSIGN_OR_RETURN(const json config, ParseTokenizerConfig(path_, sources.tokenizer_config_json));
    if (sources.chat_template.empty()) sources.chat_template = TemplateText(config);
    if (sources.chat_template.empty()) {
      ASSIGN_OR_RETURN(sources.chat_template, TemplateOfProcessor());
    }
    sources.bos_token = TokenText(config, "bos_token");
    sources.eos_token = TokenText(config, "eos_token");
    return sources;
  }

 private:
  // chat_template.json, where models that also take pictures had it for a while.
  absl::StatusOr<std::string> TemplateOfProcessor() const {
    ASSIGN_OR_RETURN(const std::string text, ReadOptional(path_, "chat_template.json", kMaxTemplateBytes));
    if (text.empty()) return std::string();
    const auto object = ParseJson(text);
    if (!object.ok()) return Annotate(object.status(), path_ + "/chat_template.json");
    return object->is_object() ? TemplateText(*object) : std::string();
  }

  const std::unique_ptr<SafetensorsFile> file_;  // what tensors_ borrows from
  const std::unique_ptr<CheckpointTensors> tensors_;
};

// Multimodal files keep the text model apart, under another prefix since transformers 5 than before.
TextNames TextNamesOf(const std::map<std::string, TensorView>& tensors) {
  for (const TextNames& names : {TextNames{"model.language_model.", "lm_head.weight"},
                                 TextNames{"language_model.model.", "language_model.lm_head.weight"}}) {
    if (tensors.contains(names.prefix + "embed_tokens.weight")) return names;
  }
  return {};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenHuggingFaceCheckpoint(const std::string& directory) {
  ASSIGN_OR_RETURN(const std::string config_json, ReadInside(directory, "config.json", kMaxConfigBytes));
  ASSIGN_OR_RETURN(const std::string generation_json,
                   ReadOptional(directory, "generation_config.json", kMaxConfigBytes));
  ASSIGN_OR_RETURN(ModelConfig config,
                   ParseHuggingFaceConfig(config_json, generation_json, directory + "/config.json"));
  ASSIGN_OR_RETURN(const std::string tokenizer_config_json,
                   ReadOptional(directory, "tokenizer_config.json", kMaxTokenizerConfigBytes));
  ASSIGN_OR_RETURN(const json tokenizer_config, ParseTokenizerConfig(directory, tokenizer_config_json));
  const std::optional<int32_t> eos = EosIdOf(tokenizer_config, config.vocab_size);
  auto& eos_ids = config.eos_token_ids;
  if (eos.has_value() && std::find(eos_ids.begin(), eos_ids.end(), *eos) == eos_ids.end()) {
    eos_ids.push_back(*eos);
  }
  ASSIGN_OR_RETURN(auto file, SafetensorsFile::OpenDirectory(directory));
  const bool tied = config.tie_word_embeddings;
  const TextNames names = TextNamesOf(file->tensors());
  const bool multimodal = names.prefix != TextNames().prefix;
  auto tensors = CheckpointTensors::Create(
      config, file->tensors(), NameScheme::kHuggingFace,
      [&](const std::string& name) {
        // A copy of the tied embedding; frequencies that old files store and that the config gives as well;
        // what sees and hears.
        return (tied && name == names.head) || name.ends_with(".rotary_emb.inv_freq") ||
               (multimodal && !name.starts_with(names.prefix));
      },
      names);
  if (!tensors.ok()) return Annotate(tensors.status(), directory);
  return std::make_unique<HfCheckpoint>(directory, std::move(config), std::move(file), *std::move(tensors));
}

}  // namespace tandem::formats
