#include "common/formats/model_digest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/ascii.h"
#include "common/base/sha256.h"
#include "common/formats/test_files.h"

namespace tandem::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// SHA-256 of "abc", from FIPS 180-4.
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

TEST(ModelDigest, OfAFileIsThatOfItsBytes) {
  const TestDirectory directory;
  directory.Write("model.gguf", "abc");
  EXPECT_EQ(*ModelDigest(directory.path() / "model.gguf"), kAbc);
  EXPECT_TRUE(absl::IsNotFound(ModelDigest(directory.path() / "absent").status()));
  ASSERT_EQ(mkfifo((directory.path() / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(ModelDigest(directory.path() / "pipe").status().message()),
              HasSubstr("no regular file"));
}

TEST(ModelDigest, OfADirectoryIsThatOfWhatSha256sumPrints) {
  const TestDirectory directory;
  directory.Write("b.json", "abc");
  directory.Write("B.json", "abc");
  directory.Write(".hidden", "x");
  fs::create_directory(directory.path() / "folder");
  fs::create_symlink("b.json", directory.path() / "link");
  Sha256 expected;
  for (const char* name : {"B.json", "b.json", "link"})
    expected.Update(std::string(kAbc) + "  " + name + "\n");
  EXPECT_EQ(*ModelDigest(directory.path()), expected.Finish());
  fs::create_symlink("/etc/passwd", directory.path() / "outside");
  EXPECT_THAT(std::string(ModelDigest(directory.path()).status().message()),
              HasSubstr("outside the directory"));
}

TEST(ModelDigest, RefusesAnotherModel) {
  const TestDirectory directory;
  directory.Write("model.gguf", "abc");
  const std::string path = directory.path() / "model.gguf";
  EXPECT_TRUE(CheckModelDigest(path, "").ok());
  EXPECT_TRUE(CheckModelDigest(path, kAbc).ok());
  EXPECT_TRUE(CheckModelDigest(path, absl::AsciiStrToUpper(kAbc)).ok());
  const std::string other(64, '0');
  const std::string message(CheckModelDigest(path, other).message());
  EXPECT_THAT(message, ::testing::AllOf(HasSubstr(path), HasSubstr(kAbc), HasSubstr(other)));
}

TEST(ModelDigest, TheOptionIsSixtyFourHexDigits) {
  EXPECT_TRUE(CheckDigestOption("").ok());
  EXPECT_TRUE(CheckDigestOption(kAbc).ok());
  for (const std::string& bad : {std::string(63, 'a'), std::string(65, 'a'), std::string(64, 'g')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckDigestOption(bad))) << bad;
  }
}

}  // namespace
}  // namespace tandem::formats
