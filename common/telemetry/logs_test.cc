#include "common/telemetry/logs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <vector>

#include "nlohmann/json.hpp"

namespace tandem::telemetry {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class LogsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(::testing::TempDir()) / "logs_test.txt";
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_GE(fd_, 0);
  }
  void TearDown() override { close(fd_); }
  LogOptions Options() const {
    LogOptions options;
    options.service = "tandem-test";
    options.fd = fd_;
    return options;
  }
  std::vector<std::string> Lines() const {
    std::ifstream file(path_);
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }

  std::filesystem::path path_;
  int fd_ = -1;
};

TEST_F(LogsTest, WritesOneJsonObjectALine) {
  {
    Logger log(Options());
    log.Info("stream ended",
             {{"request_id", "r-1"}, {"tokens", 37}, {"ok", true}, {"ms", 1.5}, {"seed", ~uint64_t{0}}});
    log.Error("second");
  }
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 2u);
  const json line = json::parse(lines[0]);
  EXPECT_THAT(line["ts"].get<std::string>(),
              MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z"));
  EXPECT_EQ(line["level"], "info");
  EXPECT_EQ(line["msg"], "stream ended");
  EXPECT_EQ(line["service"], "tandem-test");
  EXPECT_EQ(line["version"], TANDEM_VERSION);
  EXPECT_EQ(line["request_id"], "r-1");
  EXPECT_EQ(line["tokens"], 37);
  EXPECT_EQ(line["ok"], true);
  EXPECT_EQ(line["ms"], 1.5);
  EXPECT_EQ(line["seed"], ~uint64_t{0});
  EXPECT_EQ(json::parse(lines[1])["level"], "error");
}

TEST_F(LogsTest, EscapesWhateverAPeerSends) {
  const std::string nasty("a\"b\\c\n\r\t\x01\x7f\0{}%s{0}\xc3\xa9\xff\xed\xa0\x80\xf0\x9f\x99\x82\xc3", 36);
  {
    Logger log(Options());
    log.Info("peer", {{"text", nasty}, {"nan", std::numeric_limits<double>::quiet_NaN()}});
  }
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  const json line = json::parse(lines[0]);
  const std::string text = line["text"];
  EXPECT_THAT(text, HasSubstr("a\"b\\c\n\r\t\x01\x7f"));
  EXPECT_THAT(text, HasSubstr("\xc3\xa9\xef\xbf\xbd"));
  EXPECT_THAT(text, HasSubstr("\xf0\x9f\x99\x82\xef\xbf\xbd"));
  EXPECT_TRUE(line["nan"].is_null());
}

TEST_F(LogsTest, TextFormatIsKeysAndValues) {
  LogOptions options = Options();
  options.format = "text";
  { Logger(options).Warning("two words", {{"plain", "a-b"}, {"quoted", "x y=\n"}, {"n", -3}}); }
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], HasSubstr(" level=warning msg=\"two words\" service=tandem-test "));
  EXPECT_THAT(lines[0], HasSubstr(" plain=a-b quoted=\"x y=\\u000a\" n=-3"));
}

TEST_F(LogsTest, LeavesOutWhatIsBelowTheLevel) {
  LogOptions options = Options();
  options.level = "warning";
  {
    Logger log(options);
    log.Debug("no");
    log.Info("no");
    log.Warning("yes");
    EXPECT_FALSE(log.enabled(LogLevel::kInfo));
  }
  EXPECT_EQ(Lines().size(), 1u);
}

TEST(Logs, NeverBlocksOnAFullPipeAndCountsWhatIsLost) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  int64_t dropped = 0;
  const int lines = 3000;  // more than the pipe and the queue hold together
  {
    LogOptions options;
    options.service = "tandem-test";
    options.queue_lines = 64;
    options.fd = pipe_fds[1];
    Logger log(options);
    for (int i = 0; i < lines; ++i) log.Info("flood", {{"filler", std::string(200, 'x')}});
    dropped = log.dropped();
  }  // gives up on the pipe after a second
  EXPECT_GT(dropped, 0);
  EXPECT_LT(dropped, lines);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

}  // namespace
}  // namespace tandem::telemetry
