#include "common/formats/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/formats/checkpoint.h"
#include "common/formats/safetensors.h"
#include "common/formats/test_files.h"

namespace tandem::formats {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kConfig[] =
    R"({"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 6,
  "num_hidden_layers": 1, "num_attention_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 16})";
// The beginnings of what torch.save writes today and wrote before 2020.
const std::string kZip("PK\x03\x04\x00\x00\x08\x08", 8);
const std::string kOld("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 15);

std::string Refusal(const std::filesystem::path& path) {
  const absl::Status status = Checkpoint::Open(path).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(Pickle, IsRefusedByNameAndByContent) {
  const TestDirectory directory;
  directory.Write("pytorch_model.bin", "anything");
  directory.Write("zip.gguf", kZip + std::string(100, '\0'));
  directory.Write("old", kOld);
  for (const char* name : {"pytorch_model.bin", "zip.gguf", "old"}) {
    EXPECT_THAT(Refusal(directory.path() / name),
                AllOf(HasSubstr(name), HasSubstr("pickle"), HasSubstr("safetensors")));
  }
}

TEST(Pickle, IsNamedWhereADirectoryHasNothingElse) {
  const TestDirectory directory;
  directory.Write("config.json", kConfig);
  EXPECT_TRUE(absl::IsNotFound(Checkpoint::Open(directory.path()).status()));
  directory.Write("pytorch_model-00002-of-00002.bin", kZip);
  directory.Write("pytorch_model-00001-of-00002.bin", kZip);
  EXPECT_THAT(Refusal(directory.path()),
              AllOf(HasSubstr("`pytorch_model-00001-of-00002.bin`"), HasSubstr("pickle")));
}

TEST(Pickle, IsNoShardAndNoDisguise) {
  const TestDirectory directory;
  directory.Write("config.json", kConfig);
  directory.Write("model.safetensors.index.json", R"({"weight_map": {"a": "pytorch_model.bin"}})");
  directory.Write("pytorch_model.bin", SafetensorsText({{"a", {1}}}));
  EXPECT_THAT(Refusal(directory.path()), AllOf(HasSubstr("index.json"), HasSubstr("pickle")));
  directory.Write("model.safetensors", kZip);
  EXPECT_THAT(Refusal(directory.path()), AllOf(HasSubstr("model.safetensors"), HasSubstr("pickle")));
}

TEST(Pickle, IsNoSafetensorsFileWithAHeaderOfThatLength) {
  // 0x0280 bytes of header: the file begins with 80 02, as a pickle of protocol 2 does.
  constexpr size_t kHeaderBytes = 0x280;
  const size_t fixed = SafetensorsText({{"", {1}}}).size() - 8 - 4;
  const TestDirectory directory;
  const std::string text = SafetensorsText({{std::string(kHeaderBytes - fixed, 'n'), {1}}});
  ASSERT_EQ(text.substr(0, 2), "\x80\x02");
  directory.Write("model.safetensors", text);
  EXPECT_TRUE(SafetensorsFile::OpenDirectory(directory.path()).ok());
}

}  // namespace
}  // namespace tandem::formats
