// The container parsers on damaged copies of healthy files: every cut, every flipped bit of the headers. Each
// copy lies in a block of exactly its size, so that the address sanitizer sees any read outside.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>

#include "common/formats/checkpoint_tensors.h"
#include "common/formats/gguf_config.h"
#include "common/formats/gguf_parser.h"
#include "common/formats/safetensors_parser.h"
#include "common/formats/test_files.h"
#include "tests/support/golden.h"

namespace tandem::formats {
namespace {

// Exactly `text`, without a terminating zero or spare capacity.
class ExactCopy {
 public:
  explicit ExactCopy(std::string_view text) : bytes_(new std::byte[text.size()]), size_(text.size()) {
    std::memcpy(bytes_.get(), text.data(), size_);
  }
  std::span<const std::byte> span() const { return {bytes_.get(), size_}; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  size_t size_;
};

std::string Healthy(const char* name) {
  std::string text = testing::ReadFile(testing::GoldenDir() / "gguf_bad" / name);
  EXPECT_FALSE(text.empty()) << name;
  return text;
}

// What a view promises.
void ExpectInside(const TensorView& tensor, std::span<const std::byte> file) {
  EXPECT_GE(tensor.data.data(), file.data());
  EXPECT_LE(tensor.data.data() + tensor.data.size(), file.data() + file.size());
  EXPECT_EQ(tensor.num_rows() * tensor.row_bytes(), static_cast<int64_t>(tensor.data.size()));
}

// Reads as far as the damage lets it; true if a whole model came out.
bool ReadGguf(std::string_view text) {
  const ExactCopy copy(text);
  auto contents = ParseGguf(copy.span());
  if (!contents.ok()) return false;
  for (const auto& [name, tensor] : contents->tensors) ExpectInside(tensor, copy.span());
  const MemoryGguf file(*std::move(contents));
  const auto config = ConfigFromGguf(file);
  if (!config.ok()) return false;
  const auto keep_all = [](const std::string&) { return false; };
  const auto tensors = CheckpointTensors::Create(*config, file.tensors(), NameScheme::kGguf, keep_all);
  return tensors.ok();
}

bool ReadSafetensors(std::string_view text) {
  const ExactCopy copy(text);
  const auto tensors = ParseSafetensors(copy.span());
  if (!tensors.ok()) return false;
  for (const auto& [name, tensor] : *tensors) ExpectInside(tensor, copy.span());
  return true;
}

TEST(GgufParser, RefusesEveryCut) {
  const std::string text = Healthy("ok.gguf");
  ASSERT_TRUE(ReadGguf(text));
  for (size_t size = 0; size < text.size(); ++size) {
    ASSERT_FALSE(ReadGguf(std::string_view(text).substr(0, size))) << size;
  }
}

TEST(GgufParser, SurvivesEveryFlippedBitAndByteOfTheHeader) {
  std::string text = Healthy("ok.gguf");
  constexpr size_t kHeaderBytes = 1184;  // to the data of ok.gguf
  ASSERT_GT(text.size(), kHeaderBytes);
  int num_read = 0;
  for (size_t i = 0; i < kHeaderBytes; ++i) {
    const char original = text[i];
    for (int bit = 0; bit < 8; ++bit) {
      text[i] = static_cast<char>(original ^ (1 << bit));
      num_read += ReadGguf(text);
    }
    for (const char value : {'\x00', '\x7f', '\xff'}) {
      text[i] = value;
      num_read += ReadGguf(text);
    }
    text[i] = original;
  }
  EXPECT_GT(num_read, 0) << "some damage is harmless (the padding)";
}

TEST(GgufParser, BoundsTheNumbersOfTensorsAndPairs) {
  const auto message = [](uint64_t num_tensors, uint64_t num_pairs) {
    std::string text("GGUF\x03\0\0\0", 8);
    for (const uint64_t count : {num_tensors, num_pairs})
      text.append(reinterpret_cast<const char*>(&count), sizeof count);
    text.append(8 << 20, '\0');  // room for as many as they say
    const ExactCopy file(text);
    return std::string(ParseGguf(file.span()).status().message());
  };
  EXPECT_EQ(message(65'537, 0), "65537 tensors, the limit is 65536");
  EXPECT_EQ(message(0, 65'537), "65537 metadata pairs, the limit is 65536");
  EXPECT_THAT(message(65'536, 65'536), ::testing::HasSubstr("metadata key 0 has 0 bytes"));
}

TEST(SafetensorsParser, RefusesEveryCut) {
  const std::string text = Healthy("ok.safetensors");
  ASSERT_TRUE(ReadSafetensors(text));
  for (size_t size = 0; size < text.size(); ++size) {
    ASSERT_FALSE(ReadSafetensors(std::string_view(text).substr(0, size))) << size;
  }
}

TEST(SafetensorsParser, SurvivesEveryFlippedBitAndByteOfTheHeader) {
  std::string text = Healthy("ok.safetensors");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, text.data(), 8);
  ASSERT_GT(text.size(), 8 + header_bytes);
  for (size_t i = 0; i < 8 + header_bytes; ++i) {
    const char original = text[i];
    for (int bit = 0; bit < 8; ++bit) {
      text[i] = static_cast<char>(original ^ (1 << bit));
      ReadSafetensors(text);
    }
    for (const char value : {'\x00', '0', '9', '-', '[', '"', '\xff'}) {
      text[i] = value;
      ReadSafetensors(text);
    }
    text[i] = original;
  }
  EXPECT_TRUE(ReadSafetensors(text));
}

TEST(SafetensorsParser, AcceptsScalarsAndEmptyTensors) {
  const ExactCopy file(
      SafetensorsText({{"empty", {0, 3}}, {"matrix", {2, 3}}, {"scalar", {}}, {"vacant", {3, 0}}}));
  const auto tensors = ParseSafetensors(file.span());
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->at("scalar").num_elements(), 1);
  EXPECT_EQ(tensors->at("scalar").num_rows(), 1);
  EXPECT_EQ(tensors->at("empty").num_rows(), 0);
  EXPECT_EQ(tensors->at("vacant").num_rows(), 0);
  EXPECT_EQ(tensors->at("matrix").row(1).size(), 12);
}

TEST(SafetensorsParser, NamesTypesThatAreNotSupported) {
  const ExactCopy file(SafetensorsText({{"a", {1}, "U32"}}));
  const absl::Status status = ParseSafetensors(file.span()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("`U32`"));
}

TEST(SafetensorsParser, BoundsTheNumberOfTensors) {
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 65'537; ++i) tensors.push_back({fmt::format("t{}", i), {0}});
  const ExactCopy too_many(SafetensorsText(tensors));
  EXPECT_THAT(std::string(ParseSafetensors(too_many.span()).status().message()),
              ::testing::HasSubstr("65536"));
  tensors.pop_back();
  const ExactCopy just_enough(SafetensorsText(tensors));
  EXPECT_TRUE(ParseSafetensors(just_enough.span()).ok());
}

}  // namespace
}  // namespace tandem::formats
