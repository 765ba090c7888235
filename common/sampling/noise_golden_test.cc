// golden/sampling/philox.json and noise.json.
#include <gmock/gmock.h>

#include <bit>

#include "common/sampling/golden_file.h"
#include "common/sampling/philox.h"

namespace tandem::sampling {
namespace {

using nlohmann::json;
using ::testing::ElementsAreArray;

TEST(PhiloxGolden, GivesThePublishedAndOurOwnVectors) {
  const json golden = ReadGolden("philox.json");
  int num_cases = 0;
  for (const auto& [group, cases] : golden.items()) {
    for (const json& c : cases) {
      const std::vector<uint32_t> counter = HexWords(c["counter"]), key = HexWords(c["key"]);
      ASSERT_EQ(counter.size(), 4u);
      ASSERT_EQ(key.size(), 2u);
      const PhiloxBlock result =
          Philox4x32_10({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
      EXPECT_THAT(HexWords(c["result"]), ElementsAreArray(result)) << group;
      ++num_cases;
    }
  }
  EXPECT_GT(num_cases, 0);
}

void ExpectNoise(uint64_t seed, uint64_t index, uint32_t tag, uint32_t token, uint32_t word,
                 uint32_t uniform_bits, float gumbel) {
  const float u = Uniform(seed, index, tag, token);
  EXPECT_EQ(u, UniformOfWord(word));
  EXPECT_EQ(std::bit_cast<uint32_t>(u), uniform_bits) << "token " << token << " tag " << tag;
  EXPECT_EQ(std::bit_cast<uint32_t>(Gumbel(seed, index, tag, token)), std::bit_cast<uint32_t>(gumbel))
      << "token " << token << " tag " << tag;
}

TEST(NoiseGolden, GivesTheBitsOfAllStreams) {
  const json golden = ReadGolden("noise.json");
  ASSERT_FALSE(golden["streams"].empty());
  for (const json& c : golden["streams"]) {
    const uint64_t seed = Hex(c["seed"]), index = Hex(c["index"]);
    const auto tag = c["stream_tag"].get<uint32_t>();
    const std::vector<uint32_t> words = HexWords(c["words"]), uniform_bits = HexWords(c["uniform_bits"]);
    ASSERT_FALSE(words.empty());
    ASSERT_EQ(uniform_bits.size(), words.size());
    ASSERT_EQ(c["gumbel"].size(), words.size());
    for (uint32_t v = 0; v < words.size(); ++v) {
      ExpectNoise(seed, index, tag, v, words[v], uniform_bits[v], c["gumbel"][v].get<float>());
    }
  }
}

TEST(NoiseGolden, GivesTheBitsOfLargeIds) {
  const json golden = ReadGolden("noise.json");
  ASSERT_FALSE(golden["single_tokens"].empty());
  for (const json& c : golden["single_tokens"]) {
    ExpectNoise(Hex(c["seed"]), Hex(c["index"]), c["stream_tag"].get<uint32_t>(), c["token"].get<uint32_t>(),
                Hex32(c["word"]), Hex32(c["uniform_bits"]), c["gumbel"].get<float>());
  }
}

TEST(NoiseGolden, GivesTheBitsOfExtremeWords) {
  const json golden = ReadGolden("noise.json");
  ASSERT_FALSE(golden["extremes"].empty());
  for (const json& c : golden["extremes"]) {
    const float u = UniformOfWord(Hex32(c["word"]));
    EXPECT_EQ(std::bit_cast<uint32_t>(u), Hex32(c["uniform_bits"])) << c["word"];
    EXPECT_EQ(std::bit_cast<uint32_t>(GumbelOfUniform(u)), std::bit_cast<uint32_t>(c["gumbel"].get<float>()))
        << c["word"];
  }
}

}  // namespace
}  // namespace tandem::sampling
