#include "common/formats/mapped_file_guard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>

#include "common/formats/mapped_file.h"
#include "common/formats/test_files.h"

namespace tandem::formats {
namespace {

constexpr size_t kBytes = 1 << 20;

// Reads all of a file that loses its second half meanwhile.
[[noreturn]] void ReadTruncated(const std::string& path) {
  GuardMappedFiles("tandem-test");
  const auto file = MappedFile::Open(path);
  if (!file.ok()) _exit(3);
  std::filesystem::resize_file(path, kBytes / 2);
  unsigned sum = 0;
  for (const std::byte byte : (*file)->bytes()) sum += static_cast<unsigned>(byte);
  _exit(sum == 0 ? 4 : 5);
}

TEST(MappedFileGuard, ATruncatedFileEndsTheProcessWithItsName) {
  const TestDirectory directory;
  directory.Write("model.gguf", std::string(kBytes, 'x'));
  const std::string path = directory.path() / "model.gguf";
  EXPECT_EXIT(ReadTruncated(path), ::testing::ExitedWithCode(1),
              "^tandem-test: " + path + ": became unreadable while it was read: truncated");
}

[[noreturn]] void RaiseElsewhere(const std::string& path) {
  GuardMappedFiles("tandem-test");
  const auto file = MappedFile::Open(path);
  raise(SIGBUS);  // its address is in no mapping
  raise(SIGBUS);  // and now it is as if there were no guard
  _exit(file.ok() ? 3 : 4);
}

TEST(MappedFileGuard, AnyOtherBusErrorIsWhatItWas) {
  const TestDirectory directory;
  directory.Write("model.gguf", std::string(kBytes, 'x'));
#ifdef __SANITIZE_ADDRESS__  // it has a handler of its own, whose turn it then is
  EXPECT_DEATH(RaiseElsewhere(directory.path() / "model.gguf"), "AddressSanitizer: BUS");
#else
  EXPECT_EXIT(RaiseElsewhere(directory.path() / "model.gguf"), ::testing::KilledBySignal(SIGBUS), "^$");
#endif
}

TEST(MappedFileGuard, PlacesAreGivenBack) {
  const TestDirectory directory;
  directory.Write("small", "x");
  for (int i = 0; i < 2 * kMaxMappedFiles; ++i)
    ASSERT_TRUE(MappedFile::Open(directory.path() / "small").ok()) << i;
}

}  // namespace
}  // namespace tandem::formats
