// Reference files: block types bit by bit, models that must open, files that must be refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/formats/checkpoint.h"
#include "common/formats/gguf.h"
#include "common/formats/safetensors.h"
#include "tests/support/golden.h"

namespace tandem::formats {
namespace {

namespace fs = std::filesystem;
using ::tandem::testing::GoldenDir;
using ::tandem::testing::ReadFile;
using ::testing::AnyOf;
using ::testing::HasSubstr;

nlohmann::json ReadJson(const fs::path& path) { return nlohmann::json::parse(ReadFile(path)); }

std::vector<fs::path> Entries(const fs::path& directory) {
  std::vector<fs::path> entries;
  if (fs::is_directory(directory)) {
    for (const auto& entry : fs::directory_iterator(directory)) entries.push_back(entry.path());
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

std::optional<DType> DTypeNamed(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(DType::kBool); ++i) {
    if (name == DTypeName(static_cast<DType>(i))) return static_cast<DType>(i);
  }
  return std::nullopt;
}

TEST(BlockTypes, EqualTheReferenceBitByBit) {
  const fs::path directory = GoldenDir() / "gguf";
  const auto file = SafetensorsFile::Open(directory / "types.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const nlohmann::json facts = ReadJson(directory / "types.json");
  ASSERT_FALSE(facts.empty());
  for (const auto& [name, fact] : facts.items()) {
    SCOPED_TRACE(name);
    const std::optional<DType> dtype = DTypeNamed(name);
    ASSERT_TRUE(dtype.has_value() && CanDequantize(*dtype));
    EXPECT_EQ(BlockElements(*dtype), fact["block_elements"]);
    EXPECT_EQ(BlockBytes(*dtype), fact["block_bytes"]);
    const TensorView& raw = (*file)->tensors().at(name + ".raw");
    const TensorView& expected = (*file)->tensors().at(name + ".f32");
    ASSERT_GT(expected.num_elements(), 0);
    std::vector<float> want(expected.num_elements()), got(want.size());
    Dequantize(DType::kF32, expected.data, want);
    Dequantize(*dtype, raw.data, got);
    const auto same = [](float a, float b) {
      return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
    };
    const auto differs = std::mismatch(want.begin(), want.end(), got.begin(), same).first;
    const size_t i = differs - want.begin();
    EXPECT_EQ(i, want.size()) << "element " << i << ": " << got[i] << " instead of " << want[i];
  }
}

void ExpectOpens(const fs::path& path) {
  SCOPED_TRACE(path);
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->path(), path);
  const ModelConfig& config = (*checkpoint)->config();
  EXPECT_TRUE(
      (*checkpoint)->Tensor("model.embed_tokens.weight", {config.vocab_size, config.hidden_size}).ok());
  EXPECT_EQ((*checkpoint)->HasTensor("lm_head.weight"), !config.tie_word_embeddings);
  EXPECT_EQ((*checkpoint)->Fingerprint().size(), 64);
  EXPECT_GT((*checkpoint)->TensorBytes(), 0);
  EXPECT_TRUE((*checkpoint)->ReadTextSources().ok());
}

TEST(Models, HuggingFaceDirectoriesOpen) {
  int num_models = 0;
  for (const char* folder : {"targets", "drafters/targets"}) {
    for (const fs::path& path : Entries(GoldenDir() / folder)) {
      if (!fs::exists(path / "config.json")) continue;
      ++num_models;
      ExpectOpens(path);
    }
  }
  EXPECT_GT(num_models, 0);
}

TEST(Models, ShardsHoldTheTensorsOfTheirIndex) {
  int num_sharded = 0;
  for (const fs::path& path : Entries(GoldenDir() / "targets")) {
    if (!fs::exists(path / "model.safetensors.index.json")) continue;
    ++num_sharded;
    const auto file = SafetensorsFile::OpenDirectory(path);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ((*file)->tensors().size(),
              ReadJson(path / "model.safetensors.index.json")["weight_map"].size());
  }
  EXPECT_GT(num_sharded, 0);
}

// What a GGUF file and config.json of the same model must agree about.
void ExpectSameModel(const ModelConfig& gguf, const ModelConfig& hf) {
  EXPECT_EQ(gguf.family, hf.family);
  EXPECT_EQ(gguf.vocab_size, hf.vocab_size);
  EXPECT_EQ(gguf.hidden_size, hf.hidden_size);
  EXPECT_EQ(gguf.intermediate_size, hf.intermediate_size);
  ASSERT_EQ(gguf.num_layers, hf.num_layers);
  EXPECT_EQ(gguf.num_heads, hf.num_heads);
  EXPECT_EQ(gguf.attention.num_kv_heads, hf.attention.num_kv_heads);
  EXPECT_EQ(gguf.attention.head_dim, hf.attention.head_dim);
  EXPECT_EQ(gguf.attention_scale, hf.attention_scale);
  EXPECT_EQ(gguf.sliding_attention.window, hf.sliding_attention.window);
  EXPECT_EQ(gguf.sliding_attention.head_dim, hf.sliding_attention.head_dim);
  EXPECT_EQ(gguf.sliding_attention.rope.theta, hf.sliding_attention.rope.theta);
  for (int64_t i = 0; i < hf.num_layers; ++i) EXPECT_EQ(gguf.layers[i].sliding, hf.layers[i].sliding) << i;
  EXPECT_EQ(gguf.embedding_scale, hf.embedding_scale);
  EXPECT_EQ(gguf.logit_softcap, hf.logit_softcap);
  EXPECT_EQ(gguf.max_position, hf.max_position);
  EXPECT_EQ(gguf.rms_norm_eps, hf.rms_norm_eps);
  EXPECT_EQ(gguf.tie_word_embeddings, hf.tie_word_embeddings);
  EXPECT_EQ(gguf.attention.rope.theta, hf.attention.rope.theta);
  EXPECT_EQ(!gguf.attention.rope.inverse_frequency_divisors.empty(), hf.attention.rope.llama3.has_value());
}

TEST(Models, GgufFilesOpenAndSayWhatTheirConfigsSay) {
  const fs::path directory = GoldenDir() / "gguf";
  const nlohmann::json models = ReadJson(directory / "models.json");
  int num_models = 0;
  for (const fs::path& path : Entries(directory)) {
    if (path.extension() != ".gguf") continue;
    ++num_models;
    ExpectOpens(path);
    const auto checkpoint = Checkpoint::Open(path);
    if (!checkpoint.ok()) continue;  // ExpectOpens has judged it
    SCOPED_TRACE(path);
    const auto hf = ParseHuggingFaceConfig(models.at(path.stem())["config_in_hugging_face_terms"].dump(), "",
                                           "models.json");
    ASSERT_TRUE(hf.ok()) << hf.status();
    ExpectSameModel((*checkpoint)->config(), *hf);
    const auto sources = (*checkpoint)->ReadTextSources();
    ASSERT_TRUE(sources.ok()) << sources.status();
    ASSERT_NE(sources->gguf, nullptr);
    EXPECT_EQ(!sources->chat_template.empty(), sources->gguf->metadata().contains("tokenizer.chat_template"));
  }
  EXPECT_GT(num_models, 0);
}

TEST(Models, TheTrainedTargetBringsItsTextSources) {
  const fs::path path = GoldenDir() / "drafters/trained_pair/target";
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto sources = (*checkpoint)->ReadTextSources();
  ASSERT_TRUE(sources.ok()) << sources.status();
  const nlohmann::json config = ReadJson(path / "tokenizer_config.json");
  EXPECT_EQ(sources->gguf, nullptr);
  EXPECT_EQ(sources->tokenizer_json, ReadFile(path / "tokenizer.json"));
  EXPECT_EQ(sources->chat_template, config["chat_template"]);
  EXPECT_EQ(sources->eos_token, config["eos_token"]);
  EXPECT_EQ((*checkpoint)->config().eos_token_ids,
            ReadJson(path / "generation_config.json")["eos_token_id"].get<std::vector<int32_t>>());
}

// The reader alone: no model is looked for.
absl::Status ReadContainer(const fs::path& path) {
  if (fs::is_directory(path)) return SafetensorsFile::OpenDirectory(path).status();
  if (path.extension() == ".gguf") return GgufFile::Open(path).status();
  return SafetensorsFile::Open(path).status();
}

void ExpectRefused(const absl::Status& status, const fs::path& path) {
  EXPECT_THAT(status.code(), AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kUnimplemented))
      << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path.filename().string()));
}

TEST(BadFiles, AreRefusedQuicklyWithAReason) {
  const fs::path directory = GoldenDir() / "gguf_bad";
  const nlohmann::json cases = ReadJson(directory / "expected.json");
  ASSERT_FALSE(cases.empty());
  for (const auto& [name, expected] : cases.items()) {
    const std::string refused_by = expected["refused_by"];
    fs::path path = directory / name;
    if (!path.has_filename()) path = path.parent_path();  // "folder/"
    SCOPED_TRACE(name + ": " + expected["wrong"].get<std::string>());
    ASSERT_TRUE(fs::exists(path));
    const auto begin = std::chrono::steady_clock::now();
    const absl::Status container = ReadContainer(path);
    if (refused_by == "container") {
      ExpectRefused(container, path);
    } else if (refused_by != "either") {
      EXPECT_TRUE(container.ok()) << container;
    }
    if (path.extension() == ".gguf") {
      const absl::Status model = Checkpoint::Open(path).status();
      if (refused_by == "none") {
        EXPECT_TRUE(model.ok()) << model;
      } else if (refused_by != "either") {
        ExpectRefused(model, path);
      }
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  }
}

}  // namespace
}  // namespace tandem::formats
