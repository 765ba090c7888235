#include "drafter/models/draft_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "drafter/models/load_draft_model.h"
#include "drafter/models/test_checkpoint.h"

namespace tandem::drafter {
namespace {

using nlohmann::json;
using speculation::AcceptanceMode;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Of this repository: the messages below name their sizes.
const auto kGolden = std::filesystem::path(TANDEM_SOURCE_DIR) / "tests/golden/drafters";
const auto kPair = kGolden / "trained_pair/drafter", kEagle3 = kGolden / "cases/eagle3/drafter",
           kGemma4 = kGolden / "cases/dspark_gemma4/drafter";

// What loading answers after a change; the file or directory must be named.
template <typename Change>
absl::Status LoadWith(const std::filesystem::path& base, const Change& change) {
  TestCheckpoint checkpoint(base);
  change(checkpoint);
  ThreadPool pool(1);
  DraftModelOptions options;
  options.path = checkpoint.Write();
  const absl::Status status = LoadDraftModel(options, pool).status();
  if (!status.ok()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(options.path));
  }
  return status;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(DraftCheckpoint, ReadsEachReleasedArchitecture) {
  EXPECT_TRUE(LoadWith(kPair, [](auto&) {}).ok());
  EXPECT_TRUE(LoadWith(kEagle3, [](auto&) {}).ok());
  EXPECT_TRUE(LoadWith(kEagle3, [](auto& c) { c.config["architectures"] = {"Eagle3DraftModel"}; }).ok());
  EXPECT_TRUE(LoadWith(kGemma4, [](auto&) {}).ok());
  EXPECT_TRUE(LoadWith(kPair, [](auto& c) { c.config["model_type"] = "llama"; }).ok());
  EXPECT_TRUE(LoadWith(kPair, [](auto& c) { c.config["markov_head_type"] = "Vanilla"; }).ok());
}

TEST(DraftCheckpoint, ReadsTheDefaultDrafter) {
  const auto opened = DraftCheckpoint::Open(std::filesystem::path(TANDEM_SOURCE_DIR) /
                                            "drafter/default/smollm2-135m-dspark-r0");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE((*opened)->config().compact);
  EXPECT_FALSE((*opened)->HasTensor("embed_tokens.weight"));
  EXPECT_EQ((*opened)->calibration().size(), 6u);  // greedy for both rules, two temperatures of each
  const auto frequent = (*opened)->FrequentTokens(4096);
  ASSERT_TRUE(frequent.ok()) << frequent.status();
  EXPECT_EQ(frequent->size(), 4096u);
}

TEST(DraftCheckpoint, ReadsShards) {
  TestCheckpoint checkpoint(kPair);
  std::map<std::string, TestCheckpoint::Tensor> parts[2];
  json map = json::object();
  int i = 0;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const int part = i++ % 2;
    parts[part][name] = tensor;
    map[name] = part == 0 ? "a.safetensors" : "b.safetensors";
  }
  const std::string path = checkpoint.Write();
  std::filesystem::remove(path + "/model.safetensors");
  checkpoint.WriteFile("a.safetensors", TestCheckpoint::Safetensors(parts[0]));
  checkpoint.WriteFile("b.safetensors", TestCheckpoint::Safetensors(parts[1]));
  checkpoint.WriteFile("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  const auto opened = DraftCheckpoint::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE((*opened)->Tensor("fc.weight").ok());
}

TEST(DraftCheckpoint, RefusesAnArchitectureThatDoesNotGoWithTheModelType) {
  for (const char* const name : {"Gemma4DSparkModel", "Gemma4Eagle3Model"}) {
    const absl::Status status = LoadWith(kPair, [&](auto& c) { c.config["architectures"] = {name}; });
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(Message(status), AllOf(HasSubstr("config.json"), HasSubstr("model_type"), HasSubstr(name)));
  }
  const absl::Status qwen =
      LoadWith(kGemma4, [&](auto& c) { c.config["architectures"] = {"Qwen3DSparkModel"}; });
  EXPECT_TRUE(absl::IsUnimplemented(qwen)) << qwen;
  EXPECT_THAT(Message(qwen), AllOf(HasSubstr("config.json"), HasSubstr("gemma4")));
}

TEST(DraftCheckpoint, RefusesGemmaLayersThatDoNotSeeEverythingOrShareKv) {
  const absl::Status sliding = LoadWith(kGemma4, [&](auto& c) {
    c.config["layer_types"] = {"sliding_attention", "full_attention"};
  });
  EXPECT_TRUE(absl::IsUnimplemented(sliding)) << sliding;
  EXPECT_THAT(Message(sliding), AllOf(HasSubstr("config.json"), HasSubstr("layer_types")));
  const absl::Status shared = LoadWith(kGemma4, [&](auto& c) { c.config["num_kv_shared_layers"] = 1; });
  EXPECT_TRUE(absl::IsUnimplemented(shared)) << shared;
  EXPECT_THAT(Message(shared), HasSubstr("num_kv_shared_layers"));
}

struct BadField {
  const char* field;
  json value;  // null removes it
  const char* message;
};

void PrintTo(const BadField& bad, std::ostream* os) { *os << bad.field << " = " << bad.value.dump(); }

class DraftConfigFields : public ::testing::TestWithParam<BadField> {};

TEST_P(DraftConfigFields, AreCheckedAndNamed) {
  const BadField& bad = GetParam();
  const absl::Status status = LoadWith(kPair, [&](auto& c) {
    if (bad.value.is_null()) {
      c.config.erase(bad.field);
    } else {
      c.config[bad.field] = bad.value;
    }
  });
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Message(status), AllOf(HasSubstr("config.json"), HasSubstr(bad.message)));
}

// The pair has N = 4 target layers and taps 0, 1, 2.
INSTANTIATE_TEST_SUITE_P(
    All, DraftConfigFields,
    ::testing::Values(BadField{"architectures", nullptr, "architectures is missing"},
                      BadField{"architectures", json::array(), "architectures is no list of one string"},
                      BadField{"block_size", 0, "block_size is 0, allowed are 1 to 64"},
                      BadField{"block_size", 65, "block_size is 65, allowed are 1 to 64"},
                      BadField{"block_size", nullptr, "block_size is missing"},
                      BadField{"block_size", 7.5, "block_size is no integer"},
                      BadField{"block_size", uint64_t{1} << 63, "block_size is 9223372036854775808"},
                      BadField{"mask_token_id", 260, "mask_token_id is 260"},
                      BadField{"mask_token_id", -1, "mask_token_id is -1"},
                      BadField{"target_layer_ids", nullptr, "target_layer_ids is missing"},
                      BadField{"target_layer_ids", json::array(), "target_layer_ids has 0 entries"},
                      BadField{"target_layer_ids", {0, 2, 1}, "not strictly increasing: 1 after 2"},
                      BadField{"target_layer_ids", {0, 1, 1}, "not strictly increasing: 1 after 1"},
                      BadField{"target_layer_ids", {0, 1, 3}, "target_layer_ids is 3, allowed are -1 to 2"},
                      BadField{"target_layer_ids", {-2, 1, 2}, "target_layer_ids is -2"},
                      BadField{"num_target_layers", 0, "num_target_layers is 0"},
                      BadField{"num_target_layers", nullptr, "num_target_layers is missing"},
                      BadField{"markov_rank", -1, "markov_rank is -1"},
                      BadField{"markov_head_type", "mlp", "markov_head_type is `mlp`"},
                      BadField{"markov_head_type", nullptr, "markov_head_type is ``"},
                      BadField{"markov_rank", 0, "confidence_head_with_markov is true and markov_rank is 0"},
                      BadField{"enable_confidence_head", 1, "enable_confidence_head is no truth value"},
                      BadField{"tie_word_embeddings", true, "tie_word_embeddings is true"},
                      BadField{"attention_bias", true, "attention_bias is true"},
                      BadField{"layer_types", {"full_attention"}, "layer_types has 1 entries"},
                      BadField{"layer_types", {"full_attention", "sliding_attention"}, "`sliding_attention`"},
                      BadField{"hidden_act", "gelu", "hidden_act `gelu`"},
                      BadField{"num_hidden_layers", 1000000000, "num_hidden_layers"},
                      BadField{"rms_norm_eps", 0, "rms_norm_eps is 0"},
                      BadField{"head_dim", 514, "head_dim is 514"},
                      BadField{"tandem_format", 2, "tandem_format is 2"},
                      BadField{"draft_vocab_size", 261, "draft_vocab_size is 261"},
                      BadField{"target_fingerprint", "abc", "target_fingerprint is `abc`"}));

TEST(DraftCheckpoint, ChecksEagle3sOwnFields) {
  const auto message = [](const char* field, const json& value) {
    return Message(LoadWith(kEagle3, [&](auto& c) { c.config[field] = value; }));
  };
  EXPECT_THAT(message("target_layer_ids", {0, 1, 2, 3}), HasSubstr("has 4 entries, Eagle3 has 5"));
  EXPECT_THAT(message("target_layer_ids", {-1, 0, 1, 2, 3}), HasSubstr("is -1, allowed are 0 to 4"));
  EXPECT_THAT(message("target_layer_ids", {0, 1, 2, 3, 5}), HasSubstr("is 5, allowed are 0 to 4"));
  EXPECT_THAT(message("ttt_length", 0), HasSubstr("ttt_length is 0"));
  EXPECT_THAT(message("draft_num_hidden_layers", 2), HasSubstr("draft_num_hidden_layers is 2"));
}

TEST(DraftCheckpoint, RefusesTensorsThatAreNotTheFormats) {
  const char* const up = "layers.1.mlp.up_proj.weight";
  const auto message = [](const auto& change) { return Message(LoadWith(kPair, change)); };
  EXPECT_THAT(message([&](auto& c) { c.tensors.erase(up); }), AllOf(HasSubstr(up), HasSubstr("missing")));
  EXPECT_THAT(message([](auto& c) { c.tensors.erase("embed_tokens.weight"); }),
              AllOf(HasSubstr("embed_tokens.weight"), HasSubstr("missing")));
  EXPECT_THAT(message([](auto& c) { c.tensors["odd.weight"] = c.tensors["norm.weight"]; }),
              HasSubstr("tensor `odd.weight` is not part of the format"));
  EXPECT_THAT(message([&](auto& c) { std::swap(c.tensors[up].shape[0], c.tensors[up].shape[1]); }),
              AllOf(HasSubstr(up), HasSubstr("shape [64,160], expected [160,64]")));
  EXPECT_THAT(message([&](auto& c) { c.tensors[up].dtype = "F16"; }),
              AllOf(HasSubstr(up), HasSubstr("type F16, expected BF16 or F32")));
  // DFlash has no head tensors.
  EXPECT_THAT(message([](auto& c) {
                c.config["markov_rank"] = 0;
                c.config["enable_confidence_head"] = false;
              }),
              HasSubstr("not part of the format"));
}

TEST(DraftCheckpoint, RefusesWeightsThatAreNotFinite) {
  // NaN in bf16 at the end of each tensor in turn, whatever it is used for.
  for (const auto& [name, tensor] : TestCheckpoint(kPair).tensors) {
    const absl::Status status = LoadWith(kPair, [&name = name](auto& c) {
      std::string& bytes = c.tensors[name].bytes;
      bytes[bytes.size() - 2] = '\xc0';
      bytes[bytes.size() - 1] = '\x7f';
    });
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_THAT(Message(status), AllOf(HasSubstr(name), HasSubstr("not finite")));
  }
}

TEST(DraftCheckpoint, ChecksInt8Tensors) {
  const char* const up = "layers.0.mlp.up_proj.weight";
  const auto message = [](const auto& change) {
    return Message(LoadWith(kPair, [&](auto& c) {
      c.QuantiseMatrices();
      change(c);
    }));
  };
  EXPECT_EQ(message([](auto&) {}), "");
  const std::string scale = std::string(up) + ".scale";
  EXPECT_THAT(message([&](auto& c) { c.tensors.erase(scale); }),
              AllOf(HasSubstr(up), HasSubstr("int8 without")));
  EXPECT_THAT(message([&](auto& c) { c.tensors[scale].shape = {32, 5}; }), HasSubstr(scale));
  EXPECT_THAT(message([&](auto& c) {
                const float inf = std::numeric_limits<float>::infinity();
                c.tensors[scale] = TestCheckpoint::Make("F32", {160}, std::vector<float>(160, inf));
              }),
              AllOf(HasSubstr(scale), HasSubstr("not finite")));
  // Not in the released format.
  EXPECT_THAT(message([](auto& c) { c.config.erase("tandem_format"); }), HasSubstr("type I8"));
}

TEST(DraftCheckpoint, ReadsAReducedVocabularyInAnyOrder) {
  TestCheckpoint checkpoint(kPair);
  checkpoint.ReduceVocabulary({7, 3, 259, 100});
  checkpoint.tensors["t2d"] = TestCheckpoint::Make<uint8_t>("BOOL", {260}, std::vector<uint8_t>(260));
  const auto opened = DraftCheckpoint::Open(checkpoint.Write());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT((*opened)->draft_ids(), ElementsAre(3, 7, 100, 259));
  EXPECT_THAT((*opened)->draft_rows(), ElementsAre(1, 0, 3, 2));
}

TEST(DraftCheckpoint, RefusesABadReducedVocabulary) {
  const auto message = [](std::vector<int64_t> d2t) {
    return Message(LoadWith(kPair, [&](auto& c) {
      c.ReduceVocabulary({7, 3, 259, 100});
      c.tensors["d2t"] = TestCheckpoint::Make("I64", {static_cast<int64_t>(d2t.size())}, d2t);
    }));
  };
  const int64_t most = std::numeric_limits<int64_t>::max(), least = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(message({7, 2, 257, 97}), "");
  EXPECT_THAT(message({7, 2, 257, 257}), HasSubstr("entry 3 is 257, the vocabulary has 260 tokens"));
  EXPECT_THAT(message({-1, 2, 257, 97}), HasSubstr("entry 0 is -1"));
  EXPECT_THAT(message({7, most, 257, 97}), HasSubstr("entry 1"));
  EXPECT_THAT(message({7, least, 257, 97}), HasSubstr("entry 1"));
  EXPECT_THAT(message({7, 6, 257, 97}), HasSubstr("token id 7 twice"));
  EXPECT_THAT(message({7, 2, 257}), HasSubstr("shape [3], expected [4]"));
}

TEST(DraftCheckpoint, ReadsFrequentTokens) {
  TestCheckpoint checkpoint(kPair);
  const auto write = [&](const std::vector<int32_t>& ids) {
    checkpoint.WriteFile(
        "draft_vocab.safetensors",
        TestCheckpoint::Safetensors(
            {{"ids", TestCheckpoint::Make("I32", {static_cast<int64_t>(ids.size())}, ids)}}));
  };
  const auto opened = DraftCheckpoint::Open(checkpoint.Write());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(absl::IsNotFound((*opened)->FrequentTokens(2).status()));
  write({101, 32, 97, 116});
  EXPECT_THAT(*(*opened)->FrequentTokens(3), ElementsAre(32, 97, 101));
  EXPECT_THAT(Message((*opened)->FrequentTokens(5).status()), HasSubstr("allowed are 1 to 4"));
  write({101, 32, 101});
  EXPECT_THAT(Message((*opened)->FrequentTokens(3).status()), HasSubstr("token id 101 twice"));
  write({101, 260});
  EXPECT_THAT(Message((*opened)->FrequentTokens(2).status()), HasSubstr("token id 260"));
  write({101, -1});
  EXPECT_THAT(Message((*opened)->FrequentTokens(2).status()), HasSubstr("token id -1"));
}

TEST(DraftCheckpoint, ReadsCalibration) {
  TestCheckpoint checkpoint(kPair);
  json pairs = json::array(), temperatures = json::array();
  for (int k = 0; k < 7; ++k) {
    pairs.push_back({1.0 + k, -0.5});
    temperatures.push_back(2.0);
  }
  const json settings = {{"greedy", {{"scale_bias", pairs}, {"temperature", temperatures}}},
                         {"coup:0.7", {{"temperature", temperatures}}},
                         {"rej:1.0", {{"scale_bias", pairs}}},
                         {"amatch:1.0", "not ours"}};
  checkpoint.WriteFile("calibration.json", json{{"settings", settings}, {"note", 1}}.dump());
  const auto opened = DraftCheckpoint::Open(checkpoint.Write());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const auto& calibration = (*opened)->calibration();
  ASSERT_EQ(calibration.size(), 4u);
  EXPECT_EQ(calibration[0].acceptance, AcceptanceMode::kCoupled);
  EXPECT_FLOAT_EQ(calibration[0].temperature, 0.7f);
  EXPECT_EQ(calibration[0].scale_bias[6], std::pair(0.5f, 0.0f));
  EXPECT_EQ(calibration[1].acceptance, AcceptanceMode::kCoupled);  // greedy is both
  EXPECT_EQ(calibration[2].acceptance, AcceptanceMode::kRejection);
  EXPECT_EQ(calibration[1].temperature, 0.0f);
  EXPECT_EQ(calibration[2].scale_bias[2], std::pair(3.0f, -0.5f));
  EXPECT_EQ(calibration[3].acceptance, AcceptanceMode::kRejection);
  EXPECT_EQ(calibration[3].temperature, 1.0f);
}

TEST(DraftCheckpoint, RefusesBadCalibration) {
  const auto message = [](const json& calibration) {
    return Message(LoadWith(kPair, [&](auto& c) { c.WriteFile("calibration.json", calibration.dump()); }));
  };
  const auto greedy = [](const json& setting) { return json{{"settings", {{"greedy", setting}}}}; };
  EXPECT_THAT(message(json::array()), AllOf(HasSubstr("calibration.json"), HasSubstr("settings is missing")));
  EXPECT_THAT(message(greedy({{"scale_bias", {1, 2}}})), HasSubstr("scale_bias is no list of 7 entries"));
  EXPECT_THAT(message(greedy({{"scale_bias", json(std::vector<json>(7, {1}))}})), HasSubstr("no pair"));
  EXPECT_THAT(message(greedy({{"scale_bias", json(std::vector<json>(7, {1, "x"}))}})),
              HasSubstr("no number"));
  EXPECT_THAT(message(greedy({{"temperature", std::vector<double>(7, 0)}})), HasSubstr("not above 0"));
  EXPECT_THAT(message(greedy({{"scale_bias", json(std::vector<json>(7, {1e300, 0}))}})),
              HasSubstr("beyond the range of f32"));
  EXPECT_THAT(message({{"settings", {{"coup:x", 1}}}}), HasSubstr("setting `coup:x`"));
  EXPECT_THAT(message({{"settings", {{"rej:-1", 1}}}}), HasSubstr("setting `rej:-1`"));
}

TEST(LoadDraftModel, ChecksItsOptions) {
  ThreadPool pool(1);
  const auto message = [&](const auto& change) {
    DraftModelOptions options;
    options.path = kPair;
    change(options);
    return Message(LoadDraftModel(options, pool).status());
  };
  EXPECT_EQ(message([](auto&) {}), "");
  EXPECT_THAT(message([](auto& o) { o.max_blocks = 0; }), HasSubstr("max_blocks is 0"));
  EXPECT_THAT(message([](auto& o) { o.max_context_rows = 1 << 20; }), HasSubstr("max_context_rows"));
  EXPECT_THAT(message([](auto& o) { o.max_positions = -1; }), HasSubstr("max_positions is -1"));
  EXPECT_THAT(message([](auto& o) { o.max_positions = 7; }), HasSubstr("max_positions is 7"));
  EXPECT_THAT(message([](auto& o) { o.markov_top_k = -1; }), HasSubstr("markov_top_k is -1"));
  EXPECT_THAT(message([](auto& o) { o.draft_vocab = 10; }), HasSubstr("draft_vocab.safetensors"));
  EXPECT_THAT(message([](auto& o) { o.path = "/nowhere"; }), HasSubstr("/nowhere"));
}

TEST(LoadDraftModel, NamesWhatDoesNotFitTheTarget) {
  const auto target = formats::Checkpoint::Open(kGolden / "trained_pair/target");
  ASSERT_TRUE(target.ok()) << target.status();
  ThreadPool pool(1);
  const auto message = [&](const std::filesystem::path& base, const auto& change) {
    TestCheckpoint checkpoint(base);
    change(checkpoint);
    DraftModelOptions options;
    options.path = checkpoint.Write();
    options.target = target->get();
    return Message(LoadDraftModel(options, pool).status());
  };
  EXPECT_EQ(message(kPair, [](auto&) {}), "");
  EXPECT_THAT(message(kPair, [](auto& c) { c.config["num_target_layers"] = 5; }),
              AllOf(HasSubstr("made for another target"), HasSubstr((*target)->path()),
                    HasSubstr("num_target_layers is 5, the target has 4")));
  EXPECT_THAT(message(kEagle3, [](auto&) {}), HasSubstr("vocab_size is 300, the target has 260"));
}

}  // namespace
}  // namespace tandem::drafter
