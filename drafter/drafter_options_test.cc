#include "drafter/drafter_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "drafter/engine/fake_draft_model.h"
#include "drafter/models/ngram.h"

namespace tandem::drafter {
namespace {

using ::testing::HasSubstr;

struct Parsed {
  std::optional<int> code;
  std::string err;
  DrafterOptions options;
  absl::Status check;
};

Parsed Parse(std::vector<const char*> arguments) {
  Parsed parsed;
  OptionParser parser("tandem-drafter", "test", [](const char*) -> const char* { return nullptr; });
  AddDrafterOptions(parser, &parsed.options);
  arguments.insert(arguments.begin(), "tandem-drafter");
  std::ostringstream out, err;
  parsed.code = parser.Parse(static_cast<int>(arguments.size()), arguments.data(), out, err);
  parsed.err = err.str();
  parsed.check = CheckDrafterOptions(parsed.options);
  return parsed;
}

TEST(DrafterOptions, NgramNeedsNothingElse) {
  const Parsed parsed = Parse({"--model", "ngram"});
  EXPECT_FALSE(parsed.code.has_value());
  EXPECT_TRUE(parsed.check.ok()) << parsed.check;
  EXPECT_EQ(parsed.options.listen.port, 8021);
  EXPECT_EQ(parsed.options.metrics.port, 8022);
}

TEST(DrafterOptions, WhatIsMissingIsNamed) {
  EXPECT_EQ(Parse({}).check.message(), "--model is required");
  EXPECT_EQ(Parse({"--model", "random"}).check.message(), "--target is required with --model random");
  EXPECT_EQ(Parse({"--model", "default"}).check.message(), "--target is required with --model default");
  EXPECT_TRUE(Parse({"--model", "scripted:x"}).check.ok());
  EXPECT_THAT(std::string(Parse({"--model", "ngram", "--listen", "0.0.0.0:1"}).check.message()),
              HasSubstr("--insecure"));
  EXPECT_TRUE(Parse({"--model", "ngram", "--listen", "0.0.0.0:1", "--insecure"}).check.ok());
}

TEST(DrafterOptions, OnlyModelsWithFilesArePinned) {
  const std::string digest(64, 'a');
  EXPECT_TRUE(Parse({"--model", "scripted:x", "--model-sha256", digest.c_str()}).check.ok());
  EXPECT_TRUE(Parse({"--model", "d", "--target", "t", "--model-sha256", digest.c_str()}).check.ok());
  for (const char* model : {"ngram", "random"}) {
    EXPECT_THAT(
        std::string(
            Parse({"--model", model, "--target", "t", "--model-sha256", digest.c_str()}).check.message()),
        HasSubstr("--model-sha256 is for models with files"));
  }
  EXPECT_THAT(std::string(Parse({"--model", "d", "--target", "t", "--model-sha256", "12"}).check.message()),
              HasSubstr("64 hex digits, got `12`"));
}

TEST(DrafterOptions, ValuesOutOfRangeAreBadUsage) {
  for (const std::vector<const char*>& arguments :
       std::vector<std::vector<const char*>>{{"--block-size", "65"},
                                             {"--block-size", "0"},
                                             {"--max-sequences", "0"},
                                             {"--row-window", "1"},
                                             {"--dtype", "fp4"},
                                             {"--kv-dtype", "int4"},
                                             {"--row-transport", "pigeon"},
                                             {"--kv-bytes", "-1"}}) {
    EXPECT_EQ(Parse(arguments).code, 2) << arguments[0];
    EXPECT_THAT(Parse(arguments).err, HasSubstr(arguments[0]));
  }
}

TEST(DrafterOptions, ReachModelAndEngine) {
  const Parsed parsed = Parse({"--model",       "d",    "--target",        "t",   "--dtype",        "int8",
                               "--activations", "f32",  "--kv-dtype",      "f32", "--markov-top-k", "64",
                               "--draft-vocab", "8192", "--max-sequences", "7",   "--row-window",   "128",
                               "--kv-bytes",    "1MiB", "--threads",       "3"});
  ASSERT_TRUE(parsed.check.ok()) << parsed.check;
  const DraftModelOptions model = ToDraftModelOptions(parsed.options, "path", nullptr);
  EXPECT_EQ(model.path, "path");
  EXPECT_EQ(model.weight_type, kernels::WeightType::kInt8);
  EXPECT_EQ(model.activation_type, kernels::ActivationType::kF32);
  EXPECT_EQ(model.kv_type, kernels::KvType::kF32);
  EXPECT_EQ(model.markov_top_k, 64);
  EXPECT_EQ(model.draft_vocab, 8192);
  const testing::FakeDraftModel fake;
  const DraftEngineOptions engine = ToDraftEngineOptions(parsed.options, fake, 1 << 30);
  EXPECT_EQ(engine.kv_bytes, 1 << 20);
  EXPECT_EQ(engine.max_sequences, 7);
  EXPECT_EQ(engine.row_window, 128);
  EXPECT_EQ(NumThreads(parsed.options), 3);
}

TEST(DrafterOptions, ContextsMayBeInt8) {
  const Parsed parsed = Parse({"--model", "d", "--target", "t", "--kv-dtype", "int8"});
  ASSERT_TRUE(parsed.check.ok()) << parsed.check;
  EXPECT_EQ(ToDraftModelOptions(parsed.options, "path", nullptr).kv_type, kernels::KvType::kInt8);
}

TEST(DrafterOptions, ContextsTakeAnEighthOfTheMemoryOrWhatTheyNeed) {
  const Parsed parsed = Parse({"--model", "ngram", "--max-sequences", "2"});
  const testing::FakeDraftModel unlimited, short_texts(64, 8, 320);
  const int64_t block = unlimited.kv_layout().block_bytes;
  EXPECT_EQ(ToDraftEngineOptions(parsed.options, unlimited, int64_t{1} << 40).kv_bytes,
            2 * (512 + 1) * block);
  EXPECT_EQ(ToDraftEngineOptions(parsed.options, short_texts, int64_t{1} << 40).kv_bytes,
            2 * (20 + 1) * block);
  EXPECT_EQ(ToDraftEngineOptions(parsed.options, unlimited, 800).kv_bytes, 100);
  EXPECT_EQ(ToDraftEngineOptions(parsed.options, *NewNgramDrafter({}), int64_t{1} << 40).kv_bytes, 0);
}

}  // namespace
}  // namespace tandem::drafter
