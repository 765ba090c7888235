#include "common/speculation/projection_bytes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tandem::speculation {
namespace {

using ::testing::HasSubstr;

constexpr int32_t kHidden = 100;

Projection Example(bool with_norm) {
  Projection projection;
  projection.width = 48;
  projection.taps = {-1, 3, 7};
  projection.fc.resize(48 * 3 * kHidden);
  for (size_t i = 0; i < projection.fc.size(); ++i) projection.fc[i] = std::sin(static_cast<float>(i));
  if (with_norm) {
    for (int i = 0; i < 48; ++i) projection.norm.push_back(1.0f + static_cast<float>(i));
    projection.norm_eps = 1e-5f;
  }
  return projection;
}

DrafterHello HelloOf(const Projection& projection) {
  DrafterHello hello;
  hello.row_width = projection.width;
  hello.taps = projection.taps;
  hello.has_norm = !projection.norm.empty();
  hello.norm_eps = projection.norm_eps;
  hello.projection_bytes = ProjectionNumBytes(projection);
  hello.projection_hash = ProjectionHash(projection);
  return hello;
}

std::vector<std::byte> Bytes(const Projection& projection, int64_t offset, int64_t size) {
  std::vector<std::byte> out(size);
  CopyProjectionBytes(projection, offset, out);
  return out;
}

TEST(ProjectionBytes, ArriveAsTheyLeftInChunksOfAnySize) {
  for (const bool with_norm : {false, true}) {
    const Projection projection = Example(with_norm);
    const DrafterHello hello = HelloOf(projection);
    ASSERT_TRUE(CheckProjectionShape(hello, kHidden).ok());
    for (const int64_t chunk : {4, 172, 4096, 1 << 20}) {
      ProjectionAssembler assembler(hello);
      for (int64_t at = 0; at < hello.projection_bytes; at += chunk) {
        EXPECT_FALSE(assembler.complete());
        const auto data = Bytes(projection, at, std::min(chunk, hello.projection_bytes - at));
        ASSERT_TRUE(assembler.Add(at, data).ok());
      }
      ASSERT_TRUE(assembler.complete());
      const auto result = assembler.Finish();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->fc, projection.fc);
      EXPECT_EQ(result->norm, projection.norm);
      EXPECT_EQ(result->taps, projection.taps);
      EXPECT_EQ(result->width, projection.width);
      EXPECT_EQ(result->norm_eps, projection.norm_eps);
    }
  }
}

TEST(ProjectionBytes, AShapeThatDoesNotFitTheBytesIsRefused) {
  DrafterHello hello = HelloOf(Example(true));
  EXPECT_THAT(std::string(CheckProjectionShape(hello, kHidden + 1).message()),
              HasSubstr("hello.projection_bytes must be"));
  hello.has_norm = false;
  EXPECT_FALSE(CheckProjectionShape(hello, kHidden).ok());
  hello = HelloOf(Example(true));
  hello.row_width = 1 << 20;
  hello.projection_bytes = (int64_t{1} << 20) * 3 * (1 << 20) * 4 + 4 * (1 << 20);
  EXPECT_THAT(std::string(CheckProjectionShape(hello, 1 << 20).message()), HasSubstr("the limit is"));
}

TEST(ProjectionBytes, ChunksOutOfOrderOrBoundsAreRefused) {
  const Projection projection = Example(false);
  const DrafterHello hello = HelloOf(projection);
  ProjectionAssembler assembler(hello);
  EXPECT_EQ(assembler.Add(4, Bytes(projection, 4, 8)).message(), "projection.offset must be 0, got 4");
  ASSERT_TRUE(assembler.Add(0, Bytes(projection, 0, 8)).ok());
  EXPECT_FALSE(assembler.Add(0, Bytes(projection, 0, 8)).ok());
  EXPECT_FALSE(assembler.Add(8, {}).ok());
  EXPECT_FALSE(assembler.Add(8, Bytes(projection, 8, 6)).ok());
  EXPECT_FALSE(assembler.Add(8, std::vector<std::byte>(hello.projection_bytes - 4)).ok());
  EXPECT_FALSE(assembler.Add(8, std::vector<std::byte>(kProjectionChunkBytes + 4)).ok());
  EXPECT_FALSE(assembler.Add(std::numeric_limits<uint64_t>::max(), Bytes(projection, 8, 8)).ok());
}

TEST(ProjectionBytes, AnotherHashAndValuesThatAreNotFiniteAreRefused) {
  Projection projection = Example(true);
  DrafterHello hello = HelloOf(projection);
  hello.projection_hash[0] = hello.projection_hash[0] == '0' ? '1' : '0';
  ProjectionAssembler wrong_hash(hello);
  ASSERT_TRUE(wrong_hash.Add(0, Bytes(projection, 0, hello.projection_bytes)).ok());
  EXPECT_THAT(std::string(wrong_hash.Finish().status().message()), HasSubstr("has the hash"));

  projection.fc[7] = std::numeric_limits<float>::quiet_NaN();
  ProjectionAssembler not_finite(HelloOf(projection));
  ASSERT_TRUE(not_finite.Add(0, Bytes(projection, 0, hello.projection_bytes)).ok());
  EXPECT_EQ(not_finite.Finish().status().message(), "projection value 7 is not finite");
}

}  // namespace
}  // namespace tandem::speculation
