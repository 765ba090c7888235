#include "common/base/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace tandem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class OptionsTest : public ::testing::Test {
 protected:
  std::optional<int> Parse(std::vector<const char*> args) {
    args.insert(args.begin(), "tandem-test");
    OptionParser parser("tandem-test", "Tests options.", [this](const char* name) -> const char* {
      const auto it = environment_.find(name);
      return it == environment_.end() ? nullptr : it->second.c_str();
    });
    parser.AddInteger("threads", &threads_, 1, 64, "threads of the step");
    parser.AddBytes("kv-bytes", &kv_bytes_, 0, 1ll << 40, "KV pool");
    parser.AddSwitch("prefix-cache", &prefix_cache_, "share prompts");
    parser.AddFlag("deterministic", &deterministic_, "same bits everywhere");
    parser.AddChoice("dtype", &dtype_, {"auto", "f32"}, "weights");
    parser.AddDuration("drain", &drain_, absl::ZeroDuration(), absl::Minutes(10), "drain");
    parser.AddAddress("listen", &listen_, "where");
    parser.AddStringList("kwarg", &kwargs_, "names");
    parser.AddPositional("question", &question_, false, "what to ask");
    out_.str("");
    err_.str("");
    const auto code = parser.Parse(static_cast<int>(args.size()), args.data(), out_, err_);
    threads_set_ = parser.IsSet("threads");
    check_config_ = parser.check_config();
    return code;
  }
  void WriteFile(const std::string& text) {
    path_ = std::filesystem::path(::testing::TempDir()) / "options_test.toml";
    std::ofstream(path_) << text;
  }

  std::map<std::string, std::string> environment_;
  std::filesystem::path path_;
  std::stringstream out_, err_;
  bool threads_set_ = false, check_config_ = false;

  int threads_ = 2;
  int64_t kv_bytes_ = 64ll << 20;
  bool prefix_cache_ = true, deterministic_ = false;
  std::string dtype_ = "auto", question_;
  absl::Duration drain_ = absl::Seconds(30);
  Address listen_{"127.0.0.1", 8011, ""};
  std::vector<std::string> kwargs_{"default"};
};

TEST_F(OptionsTest, KeepsDefaultsWhenNothingIsSet) {
  EXPECT_EQ(Parse({}), std::nullopt);
  EXPECT_EQ(threads_, 2);
  EXPECT_FALSE(threads_set_);
  EXPECT_THAT(kwargs_, ElementsAre("default"));
}

TEST_F(OptionsTest, FlagWinsOverEnvironmentOverFileOverDefault) {
  WriteFile("threads = 3\nkv_bytes = \"1GiB\"\ndtype = \"f32\"\nprefix-cache = false\n");
  environment_ = {{"TANDEM_THREADS", "4"}, {"TANDEM_KV_BYTES", "2GiB"}};
  EXPECT_EQ(Parse({"--config", path_.c_str(), "--threads", "5"}), std::nullopt) << err_.str();
  EXPECT_EQ(threads_, 5);
  EXPECT_EQ(kv_bytes_, 2ll << 30);
  EXPECT_EQ(dtype_, "f32");
  EXPECT_FALSE(prefix_cache_);
  EXPECT_TRUE(threads_set_);
}

TEST_F(OptionsTest, ConfigPathComesFromTheEnvironmentToo) {
  WriteFile("threads = 7");
  environment_ = {{"TANDEM_CONFIG", path_.string()}};
  EXPECT_EQ(Parse({}), std::nullopt);
  EXPECT_EQ(threads_, 7);
}

TEST_F(OptionsTest, ReadsEveryKind) {
  EXPECT_EQ(Parse({"--listen", "unix:/tmp/s", "--drain=5s", "--prefix-cache=off", "--deterministic",
                   "--kwarg", "a,b", "--kwarg=c", "why?"}),
            std::nullopt)
      << err_.str();
  EXPECT_EQ(listen_.unix_path, "/tmp/s");
  EXPECT_EQ(drain_, absl::Seconds(5));
  EXPECT_FALSE(prefix_cache_);
  EXPECT_TRUE(deterministic_);
  EXPECT_THAT(kwargs_, ElementsAre("a,b", "c"));
  EXPECT_EQ(question_, "why?");
}

TEST_F(OptionsTest, FlagsAndListsComeFromEveryPlace) {
  environment_ = {{"TANDEM_DETERMINISTIC", "on"}, {"TANDEM_KWARG", "a,b"}};
  EXPECT_EQ(Parse({"--deterministic=off"}), std::nullopt) << err_.str();
  EXPECT_FALSE(deterministic_);
  EXPECT_THAT(kwargs_, ElementsAre("a", "b"));
  WriteFile("kwarg = []\ndeterministic = true\n");
  environment_ = {{"TANDEM_CONFIG", path_.string()}};
  EXPECT_EQ(Parse({}), std::nullopt) << err_.str();
  EXPECT_TRUE(deterministic_);
  EXPECT_THAT(kwargs_, IsEmpty());
}

TEST_F(OptionsTest, BadUsageIsOneLineAndExitsTwo) {
  environment_ = {};
  const std::pair<std::vector<const char*>, const char*> cases[] = {
      {{"--threads", "0"}, "tandem-test: --threads: must be in 1..64, got 0\n"},
      {{"--threads", "x"}, "tandem-test: --threads: expected an integer, got 'x'\n"},
      {{"--kv-bytes", "-1"},
       "tandem-test: --kv-bytes: expected a size such as 4096, 512MiB or 2GB, got '-1'\n"},
      {{"--kv-bytes", "2TiB"}, "tandem-test: --kv-bytes: must be in 0..1TiB, got 2TiB\n"},
      {{"--dtype", "f64"}, "tandem-test: --dtype: expected one of auto, f32, got 'f64'\n"},
      {{"--drain", "1h"}, "tandem-test: --drain: must be in 0..10m, got 1h\n"},
      {{"--listen", "a\nb"},
       "tandem-test: --listen: expected HOST:PORT, [IPV6]:PORT or unix:PATH, got 'a b'\n"},
  };
  for (const auto& [args, message] : cases) {
    EXPECT_EQ(Parse(args), 2);
    EXPECT_EQ(err_.str(), message);
  }
  for (const std::vector<const char*>& args :
       {std::vector<const char*>{"--nonsense"}, {"--threads"}, {"a", "b"}, {"--deterministic=perhaps"}}) {
    EXPECT_EQ(Parse(args), 2) << args[0];
    EXPECT_THAT(err_.str(), HasSubstr("tandem-test: "));
    EXPECT_EQ(std::count(std::istreambuf_iterator<char>(err_), {}, '\n'), 1) << err_.str();
  }
}

TEST_F(OptionsTest, ErrorsNameTheirPlace) {
  environment_ = {{"TANDEM_THREADS", "many"}};
  EXPECT_EQ(Parse({}), 2);
  EXPECT_EQ(err_.str(), "tandem-test: TANDEM_THREADS: expected an integer, got 'many'\n");

  environment_ = {};
  WriteFile("threads = 1\nthreds = 2\n");
  EXPECT_EQ(Parse({"--config", path_.c_str()}), 2);
  EXPECT_EQ(err_.str(), "tandem-test: " + path_.string() + ": line 2: unknown option 'threds'\n");
  WriteFile("question = \"x\"\n");
  EXPECT_EQ(Parse({"--config", path_.c_str()}), 2);
  WriteFile("threads = [1, 2]\n");
  EXPECT_EQ(Parse({"--config", path_.c_str()}), 2);
  EXPECT_EQ(err_.str(),
            "tandem-test: " + path_.string() + ": line 1: threads takes one value, not an array\n");
  EXPECT_EQ(Parse({"--config", "/does/not/exist"}), 2);
  EXPECT_THAT(err_.str(), HasSubstr("cannot open configuration file /does/not/exist"));
}

TEST_F(OptionsTest, HelpNamesEveryOptionWithItsDefault) {
  EXPECT_EQ(Parse({"--help"}), 0);
  for (const char* text :
       {"--threads", "[2]", "--kv-bytes", "[64MiB]", "--prefix-cache", "[on]", "--deterministic", "--dtype",
        "auto|f32", "--drain", "[30s]", "--listen", "[127.0.0.1:8011]", "--kwarg", "question", "--config",
        "--check-config", "--version", "TANDEM_<NAME>"}) {
    EXPECT_THAT(out_.str(), HasSubstr(text));
  }
  EXPECT_EQ(err_.str(), "");
}

TEST_F(OptionsTest, PrintsTheVersion) {
  EXPECT_EQ(Parse({"--version"}), 0);
  EXPECT_EQ(out_.str(), "tandem-test " TANDEM_VERSION "\n");
}

TEST_F(OptionsTest, CheckConfigIsReportedAfterTheChecks) {
  EXPECT_EQ(Parse({"--check-config"}), std::nullopt);
  EXPECT_TRUE(check_config_);
  EXPECT_EQ(Parse({"--check-config", "--threads=0"}), 2);
}

}  // namespace
}  // namespace tandem
