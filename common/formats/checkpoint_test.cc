#include "common/formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "common/base/sha256.h"
#include "common/formats/model_tensors.h"
#include "common/formats/safetensors.h"
#include "common/formats/test_files.h"

namespace tandem::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kConfig =
    R"({"model_type": "qwen3", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6,
  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "rms_norm_eps": 1e-6,
  "max_position_embeddings": 16, "tie_word_embeddings": true})";

std::vector<TestTensor> TensorsOf(const std::string& config_json) {
  std::vector<TestTensor> tensors;
  for (const TensorSpec& spec : ModelTensors(*ParseHuggingFaceConfig(config_json, "", ""))) {
    tensors.push_back({spec.name, spec.shape});
  }
  return tensors;
}

absl::Status StatusWith(const std::vector<TestTensor>& tensors) {
  const TestDirectory directory;
  directory.Write("config.json", kConfig);
  directory.Write("model.safetensors", SafetensorsText(tensors));
  const absl::Status status = Checkpoint::Open(directory.path()).status();
  if (!status.ok()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(directory.path().string()));
  }
  return status;
}

TEST(HuggingFaceCheckpoint, GivesTensorsByNameAndShape) {
  const TestDirectory directory;
  directory.Write("config.json", kConfig);
  directory.Write("model.safetensors", SafetensorsText(TensorsOf(kConfig)));
  const auto checkpoint = Checkpoint::Open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->QkRowOrder(), RowOrder::kPlain);
  EXPECT_TRUE((*checkpoint)->Tensor("model.layers.0.mlp.up_proj.weight", {6, 4}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument((*checkpoint)->Tensor("model.norm.weight", {5}).status()));
  EXPECT_TRUE(absl::IsNotFound((*checkpoint)->Tensor("model.layers.1.mlp.up_proj.weight", {6, 4}).status()));
  const auto sources = (*checkpoint)->ReadTextSources();
  ASSERT_TRUE(sources.ok()) << sources.status();
  EXPECT_EQ(sources->gguf, nullptr);
  EXPECT_EQ(sources->tokenizer_json, "");
}

// Both layouts of multimodal files; what sees is ignored, a foreign part of the text model is not.
TEST(HuggingFaceCheckpoint, FindsTheTextModelOfAMultimodalFile) {
  nlohmann::json text = nlohmann::json::parse(kConfig);
  text["model_type"] = "gemma3_text";
  text["sliding_window"] = 4;
  const std::string config =
      nlohmann::json{{"model_type", "gemma3"}, {"text_config", text}, {"tie_word_embeddings", false}}.dump();
  const std::pair<std::string, std::string> layouts[] = {
      {"model.language_model.", "lm_head.weight"},
      {"language_model.model.", "language_model.lm_head.weight"},
      {"model.", "lm_head.weight"},
  };
  for (const auto& [prefix, head] : layouts) {
    std::vector<TestTensor> tensors = TensorsOf(config);
    for (TestTensor& tensor : tensors) {
      tensor.name = tensor.name == "lm_head.weight" ? head : prefix + tensor.name.substr(6);
    }
    const auto open = [&, prefix = prefix](const char* more, bool inside) {
      std::vector<TestTensor> all = tensors;
      if (more != nullptr) all.push_back({inside ? prefix + more : more, {2}});
      const TestDirectory directory;
      directory.Write("config.json", config);
      directory.Write("model.safetensors", SafetensorsText(all));
      const auto checkpoint = Checkpoint::Open(directory.path());
      if (checkpoint.ok()) {
        EXPECT_TRUE((*checkpoint)->NormsAddOne());
        EXPECT_TRUE((*checkpoint)->Tensor("model.norm.weight", {4}).ok());
        EXPECT_TRUE((*checkpoint)->Tensor("lm_head.weight", {8, 4}).ok());
      }
      return checkpoint.status();
    };
    EXPECT_TRUE(open(nullptr, false).ok()) << prefix;
    EXPECT_EQ(open("vision_tower.weight", false).ok(), prefix != "model.") << prefix;
    const absl::Status foreign = open("layers.0.mlp.up_proj.bias", true);
    EXPECT_TRUE(absl::IsUnimplemented(foreign)) << foreign;
    EXPECT_THAT(std::string(foreign.message()), HasSubstr("up_proj.bias"));
  }
}

TEST(HuggingFaceCheckpoint, RefusesAModelThatIsNotWholeOrHasForeignParts) {
  const std::vector<TestTensor> whole = TensorsOf(kConfig);
  ASSERT_TRUE(StatusWith(whole).ok());
  for (size_t i = 0; i < whole.size(); ++i) {
    std::vector<TestTensor> tensors = whole;
    tensors.erase(tensors.begin() + i);
    EXPECT_THAT(std::string(StatusWith(tensors).message()), HasSubstr("`" + whole[i].name + "` is missing"));
    tensors = whole;
    tensors[i].shape.back() += 1;
    EXPECT_THAT(std::string(StatusWith(tensors).message()), HasSubstr("has shape"));
    tensors = whole;
    tensors[i].dtype = "I32";
    EXPECT_THAT(std::string(StatusWith(tensors).message()), HasSubstr("has type I32"));
  }
  std::vector<TestTensor> tensors = whole;
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", {4}});
  EXPECT_EQ(StatusWith(tensors).code(), absl::StatusCode::kUnimplemented);
  tensors.back() = {"lm_head.weight", {8, 4}};  // a copy of the tied embedding
  EXPECT_TRUE(StatusWith(tensors).ok());
}

TEST(HuggingFaceCheckpoint, FingerprintFollowsItsDefinition) {
  const TestDirectory directory;
  directory.Write("config.json", kConfig);
  directory.Write("model.safetensors", SafetensorsText(TensorsOf(kConfig), 1));
  const auto file = SafetensorsFile::OpenDirectory(directory.path());
  ASSERT_TRUE(file.ok()) << file.status();
  Sha256 expected;
  for (const auto& [name, tensor] : (*file)->tensors()) {
    Sha256 data;
    data.Update(std::string(tensor.data.size(), 1));
    expected.Update(name + " F32 " + ShapeText(tensor.shape) + " " + data.Finish() + "\n");
  }
  EXPECT_EQ((*Checkpoint::Open(directory.path()))->Fingerprint(), expected.Finish());
}

TEST(HuggingFaceCheckpoint, ReadsTemplatesAndTokensInTheirSpellings) {
  const TestDirectory directory;
  directory.Write("config.json", kConfig);
  directory.Write("model.safetensors", SafetensorsText(TensorsOf(kConfig)));
  directory.Write("tokenizer.json", "{}");
  directory.Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>",
      "chat_template": [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]})");
  const auto checkpoint = Checkpoint::Open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto sources = (*checkpoint)->ReadTextSources();
  ASSERT_TRUE(sources.ok()) << sources.status();
  EXPECT_EQ(sources->tokenizer_json, "{}");
  EXPECT_EQ(sources->bos_token, "<s>");
  EXPECT_EQ(sources->eos_token, "</s>");
  EXPECT_EQ(sources->chat_template, "D");
  directory.Write("chat_template.json", R"({"chat_template": "P"})");
  EXPECT_EQ((*checkpoint)->ReadTextSources()->chat_template, "D");
  directory.Write("tokenizer_config.json", "{}");
  EXPECT_EQ((*checkpoint)->ReadTextSources()->chat_template, "P");
  directory.Write("chat_template.jinja", "J");
  EXPECT_EQ((*checkpoint)->ReadTextSources()->chat_template, "J");
  directory.Write("tokenizer_config.json", "{");
  EXPECT_THAT(std::string((*checkpoint)->ReadTextSources().status().message()),
              HasSubstr("tokenizer_config.json"));
}

TEST(HuggingFaceCheckpoint, EveryFileThatNamesAnEndCounts) {
  const TestDirectory directory;
  nlohmann::json config = nlohmann::json::parse(kConfig);
  config["eos_token_id"] = 1;
  directory.Write("config.json", config.dump());
  directory.Write("generation_config.json", R"({"eos_token_id": [1, 2]})");
  directory.Write("model.safetensors", SafetensorsText(TensorsOf(kConfig)));
  const auto ends = [&](const char* tokenizer_config) {
    directory.Write("tokenizer_config.json", tokenizer_config);
    const auto checkpoint = Checkpoint::Open(directory.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return checkpoint.ok() ? (*checkpoint)->config().eos_token_ids : std::vector<int32_t>();
  };
  EXPECT_THAT(ends(R"({"eos_token": "</t>", "added_tokens_decoder": {"5": {"content": "</t>"}}})"),
              ElementsAre(1, 2, 5));
  EXPECT_THAT(
      ends(R"({"eos_token": {"content": "</t>"}, "added_tokens_decoder": {"2": {"content": "</t>"}}})"),
      ElementsAre(1, 2));
  // What names no token of the model adds none.
  for (const char* odd :
       {R"({"eos_token": "</t>"})", R"({"eos_token": "</t>", "added_tokens_decoder": 5})",
        R"({"eos_token": "</t>", "added_tokens_decoder": {"8": {"content": "</t>"}}})",
        R"({"eos_token": "</t>", "added_tokens_decoder": {"-1": {"content": "</t>"}}})",
        R"({"eos_token": "</t>", "added_tokens_decoder": {"5x": {"content": "</t>"}, "4": 1}})"}) {
    EXPECT_THAT(ends(odd), ElementsAre(1, 2)) << odd;
  }
  directory.Write("tokenizer_config.json", "{");
  EXPECT_THAT(std::string(Checkpoint::Open(directory.path()).status().message()),
              HasSubstr("tokenizer_config.json"));
}

TEST(HuggingFaceCheckpoint, FollowsLinksInsideTheDirectoryAndTheCacheOnly) {
  const TestDirectory root;
  const fs::path blobs = root.path() / "blobs", model = root.path() / "snapshots/r1",
                 other = root.path() / "other";
  for (const fs::path& path : {blobs, model, other}) fs::create_directories(path);
  root.Write("blobs/config", kConfig);
  root.Write("blobs/weights", SafetensorsText(TensorsOf(kConfig)));
  fs::create_symlink("../../blobs/config", model / "config.json");
  fs::create_symlink("../../blobs/weights", model / "model.safetensors");
  EXPECT_TRUE(Checkpoint::Open(model).ok()) << Checkpoint::Open(model).status();
  fs::create_symlink("../blobs/config", other / "config.json");
  EXPECT_THAT(std::string(Checkpoint::Open(other).status().message()), HasSubstr("outside the directory"));
  root.Write("snapshots/r1/inner.json", kConfig);
  fs::remove(model / "config.json");
  fs::create_symlink("inner.json", model / "config.json");
  EXPECT_TRUE(Checkpoint::Open(model).ok());
  fs::remove(model / "config.json");
  fs::create_symlink("config.json", model / "config.json");
  EXPECT_FALSE(Checkpoint::Open(model).ok()) << "a link to itself";
}

TEST(Checkpoint, SaysWhatIsWrongWithAPath) {
  const TestDirectory directory;
  EXPECT_TRUE(absl::IsNotFound(Checkpoint::Open(directory.path() / "absent").status()));
  EXPECT_THAT(std::string(Checkpoint::Open(directory.path()).status().message()), HasSubstr("config.json"));
  directory.Write("model.safetensors", SafetensorsText({}));
  EXPECT_THAT(std::string(Checkpoint::Open(directory.path() / "model.safetensors").status().message()),
              HasSubstr("directory"));
  const fs::path pipe = directory.path() / "pipe.gguf";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(std::string(Checkpoint::Open(pipe).status().message()), HasSubstr("no regular file"));
}

}  // namespace
}  // namespace tandem::formats
