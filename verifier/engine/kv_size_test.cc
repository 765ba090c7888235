#include "verifier/engine/kv_size.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "common/kernels/kv_cache.h"

namespace tandem::verifier {
namespace {

using ::testing::HasSubstr;

class MeminfoTest : public ::testing::Test {
 protected:
  MeminfoTest()
      : path_(std::filesystem::temp_directory_path() / ("tandem-meminfo-" + std::to_string(getpid()))) {}
  ~MeminfoTest() override { std::filesystem::remove(path_); }

  absl::StatusOr<int64_t> Read(const std::string& text) {
    std::ofstream(path_) << text;
    return AvailableMemoryBytes(path_);
  }

  const std::string path_;
};

TEST_F(MeminfoTest, ReadsTheLineOfMemAvailable) {
  const auto bytes =
      Read("MemTotal:       1000 kB\nMemFree: 7 kB\nMemAvailable:     640 kB\nBuffers: 1 kB\n");
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_EQ(*bytes, 640 * 1024);
}

TEST_F(MeminfoTest, WhatCannotBeUnderstoodIsQuoted) {
  for (const char* line :
       {"MemAvailable: kB", "MemAvailable: 12", "MemAvailable: 12 MB", "MemAvailable: x kB",
        "MemAvailable: -1 kB", "MemAvailable: 12 kB more", "MemAvailable: 1.5 kB",
        "MemAvailable: 9223372036854775807 kB", "MemAvailable: 99999999999999999999 kB"}) {
    const auto bytes = Read(std::string("MemTotal: 5 kB\n") + line + "\n");
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kInvalidArgument) << line;
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr(path_));
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr(line));
  }
}

TEST_F(MeminfoTest, AFileWithoutTheLineIsNamed) {
  for (const char* text : {"", "\n\n", "MemTotal: 5 kB\nMemAvailable : 5 kB\n", "memavailable: 5 kB\n"}) {
    const auto bytes = Read(text);
    EXPECT_EQ(bytes.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr("has no line MemAvailable"));
  }
}

TEST_F(MeminfoTest, AMissingFileIsUnavailable) {
  const auto bytes = AvailableMemoryBytes(path_ + "-not-there");
  EXPECT_EQ(bytes.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(bytes.status().message()), HasSubstr(path_ + "-not-there"));
}

TEST(AvailableMemoryTest, TheSystemHasSome) {
  const auto bytes = AvailableMemoryBytes();
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_GT(*bytes, 0);
}

TEST(NumKvBlocksTest, AConfiguredSizeIsFilledWithWholeBlocks) {
  EXPECT_EQ(
      NumKvBlocks({.kv_bytes = 10'999, .block_bytes = 1000, .max_sequences = 1, .context = 16}, 0).value(),
      10);  // more than one sequence of 16 needs: the operator's will
}

TEST(NumKvBlocksTest, TheDefaultIsAQuarterOfWhatIsAvailable) {
  EXPECT_EQ(NumKvBlocks({.block_bytes = 1000, .max_sequences = 64, .context = 4096}, 400'000).value(), 100);
}

TEST(NumKvBlocksTest, TheDefaultIsTheShareAskedFor) {
  const KvDemand demand = {.block_bytes = 1000, .max_sequences = 64, .context = 4096, .default_share = 0.9};
  EXPECT_EQ(NumKvBlocks(demand, 400'000).value(), 360);
}

TEST(NumKvBlocksTest, TheDefaultTakesNoMoreThanFullSequencesNeed) {
  // 33 positions are three blocks, one more for drafts behind the last; two such sequences.
  EXPECT_EQ(kernels::kKvBlockPositions, 16);
  EXPECT_EQ(NumKvBlocks({.block_bytes = 1000, .max_sequences = 2, .context = 33}, 1'000'000'000).value(), 8);
  EXPECT_EQ(NumKvBlocks({.block_bytes = 1000, .max_sequences = 2, .context = 32}, 1'000'000'000).value(), 6);
}

TEST(NumKvBlocksTest, TooSmallIsRefusedWithTheSizes) {
  const KvDemand configured{.kv_bytes = 3999, .block_bytes = 1000, .max_sequences = 8, .context = 512};
  const auto small = NumKvBlocks(configured, 1'000'000'000);
  EXPECT_EQ(small.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(small.status().message()),
              HasSubstr("3999 bytes hold 3 blocks of 1000 bytes, at least 4"));
  EXPECT_EQ(
      NumKvBlocks({.kv_bytes = 4000, .block_bytes = 1000, .max_sequences = 8, .context = 512}, 0).value(),
      kMinKvBlocks);

  const auto scarce = NumKvBlocks({.block_bytes = 1000, .max_sequences = 8, .context = 512}, 15'999);
  EXPECT_EQ(scarce.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(scarce.status().message()), HasSubstr("3999 bytes hold 3 blocks"));
}

TEST(NumKvBlocksTest, PositionsOfAllBlocksCanBeCountedIn32Bits) {
  const auto blocks = NumKvBlocks(
      {.kv_bytes = std::numeric_limits<int64_t>::max(), .block_bytes = 1, .max_sequences = 1, .context = 16},
      0);
  ASSERT_TRUE(blocks.ok()) << blocks.status();
  EXPECT_LE(int64_t{*blocks} * kernels::kKvBlockPositions, std::numeric_limits<int32_t>::max());
}

}  // namespace
}  // namespace tandem::verifier
