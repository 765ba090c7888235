#include "verifier/scheduling/decision_trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/golden.h"
#include "verifier/scheduling/test_loads.h"

namespace tandem::verifier {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

class DecisionTraceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "decision_trace.XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = (directory_ / "trace.jsonl").string();
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static TraceHeader Header() {
    return {.policy = {},
            .acceptance = speculation::AcceptanceMode::kRejection,
            .block_size = 4,
            .numerics_id = "test/\"1\"",
            .step_time = LinearStepTime(10e-3, 1e-4).parameters()};
  }
  static StepDecision Step(uint64_t order) {
    return {.num_anchors = 3,
            .num_kv_positions = 1234567890123,
            .num_prefill_tokens = 17,
            .max_draft_rows = 99,
            .draft_seconds = 0.1 + 0.2,
            .utilization = 1.0 / 3,
            .predicted_seconds = 1e-3,
            .real_seconds = 1.25e-3,
            .sequences = {
                {.order = order,
                 .drafted = true,
                 .probe = false,
                 .survivals = {0.9, 2.0 / 3, 1e-17},
                 .confidences = {0.99, 0.5, 0},
                 .window = 2,
                 .accepted = 1},
                {.order = order + 1, .drafted = false, .probe = true, .survivals = {1}, .confidences = {}}}};
  }
  void WriteTrace(int num_steps) {
    auto writer = TraceWriter::Create(path_, Header());
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int i = 0; i < num_steps; ++i) ASSERT_TRUE((*writer)->Write(Step(static_cast<uint64_t>(i))).ok());
    ASSERT_TRUE((*writer)->Close().ok());
  }
  // The error of reading lines `header` and then `step`.
  std::string ErrorOf(const std::string& text) {
    std::ofstream(path_, std::ios::binary) << text;
    auto reader = TraceReader::Open(path_);
    absl::Status status = reader.status();
    if (reader.ok()) {
      StepDecision step;
      absl::StatusOr<bool> any = true;
      while (any.ok() && *any) any = (*reader)->Next(step);
      status = any.status();
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 200);
    return std::string(status.message());
  }
  std::vector<json> Lines() {
    std::vector<json> lines;
    std::istringstream text(testing::ReadFile(path_));
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  }

  std::filesystem::path directory_;
  std::string path_;
};

TEST_F(DecisionTraceTest, ReadsWhatWasWrittenToTheLastBit) {
  WriteTrace(3);
  auto reader = TraceReader::Open(path_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  const TraceHeader& header = (*reader)->header();
  EXPECT_EQ(header.policy.kind, PolicyKind::kPrefix);
  EXPECT_EQ(header.acceptance, speculation::AcceptanceMode::kRejection);
  EXPECT_EQ(header.block_size, 4);
  EXPECT_EQ(header.numerics_id, Header().numerics_id);
  EXPECT_EQ(header.step_time.table_seconds, Header().step_time.table_seconds);
  StepDecision step;
  for (uint64_t i = 0; i < 3; ++i) {
    const auto any = (*reader)->Next(step);
    ASSERT_TRUE(any.ok()) << any.status();
    ASSERT_TRUE(*any);
    const StepDecision expected = Step(i);
    EXPECT_EQ(step.num_anchors, expected.num_anchors);
    EXPECT_EQ(step.num_kv_positions, expected.num_kv_positions);
    EXPECT_EQ(step.num_prefill_tokens, expected.num_prefill_tokens);
    EXPECT_EQ(step.max_draft_rows, expected.max_draft_rows);
    EXPECT_EQ(step.draft_seconds, expected.draft_seconds);
    EXPECT_EQ(step.utilization, expected.utilization);
    EXPECT_EQ(step.predicted_seconds, expected.predicted_seconds);
    EXPECT_EQ(step.real_seconds, expected.real_seconds);
    ASSERT_EQ(step.sequences.size(), 2u);
    for (size_t s = 0; s < 2; ++s) {
      EXPECT_EQ(step.sequences[s].order, expected.sequences[s].order);
      EXPECT_EQ(step.sequences[s].drafted, expected.sequences[s].drafted);
      EXPECT_EQ(step.sequences[s].probe, expected.sequences[s].probe);
      EXPECT_EQ(step.sequences[s].survivals, expected.sequences[s].survivals);
      EXPECT_EQ(step.sequences[s].confidences, expected.sequences[s].confidences);
      EXPECT_EQ(step.sequences[s].window, expected.sequences[s].window);
      EXPECT_EQ(step.sequences[s].accepted, expected.sequences[s].accepted);
    }
  }
  EXPECT_FALSE(*(*reader)->Next(step));
}

TEST_F(DecisionTraceTest, ConfidencesThatAreNoNumbersAreWrittenAsZero) {
  auto writer = TraceWriter::Create(path_, Header());
  ASSERT_TRUE(writer.ok());
  StepDecision step = Step(0);
  step.sequences[0].confidences[1] = std::nan("");
  ASSERT_TRUE((*writer)->Write(step).ok());
  ASSERT_TRUE((*writer)->Close().ok());
  auto reader = TraceReader::Open(path_);
  ASSERT_TRUE((*reader)->Next(step).ok());
  EXPECT_EQ(step.sequences[0].confidences[1], 0);
}

TEST_F(DecisionTraceTest, EndsAtItsLimitWithWholeSteps) {
  auto writer = TraceWriter::Create(path_, Header(), 2000);
  ASSERT_TRUE(writer.ok());
  int num_written = 0;
  absl::Status status;
  while ((status = (*writer)->Write(Step(0))).ok()) ++num_written;
  EXPECT_GT(num_written, 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(path_), HasSubstr("2000 bytes")));
  EXPECT_EQ((*writer)->Write(Step(0)), status);  // and stays so
  EXPECT_EQ((*writer)->Close(), status);
  EXPECT_LE(std::filesystem::file_size(path_), 2000u);
  auto reader = TraceReader::Open(path_);
  ASSERT_TRUE(reader.ok());
  StepDecision step;
  for (int i = 0; i < num_written; ++i) EXPECT_TRUE(*(*reader)->Next(step));
  EXPECT_FALSE(*(*reader)->Next(step));
}

TEST_F(DecisionTraceTest, SaysWhatCannotBeWrittenOrOpened) {
  const std::string nowhere = (directory_ / "no" / "trace").string();
  EXPECT_EQ(TraceWriter::Create(nowhere, Header()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(TraceReader::Open(nowhere).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(TraceReader::Open(directory_.string()).status().code(), absl::StatusCode::kInvalidArgument);
  if (access("/dev/full", W_OK) == 0) {
    auto writer = TraceWriter::Create("/dev/full", Header());
    ASSERT_TRUE(writer.ok());
    EXPECT_EQ((*writer)->Close().code(), absl::StatusCode::kUnavailable);
  }
}

TEST_F(DecisionTraceTest, RefusesBadLinesNamingFileLineAndField) {
  WriteTrace(2);
  const std::vector<json> good = Lines();
  ASSERT_EQ(good.size(), 3u);
  struct Row {
    size_t line;  // from 0
    const char* pointer;
    json value;  // discarded: the field is left out
    const char* message;
  };
  const json gone(json::value_t::discarded);
  const Row rows[] = {
      {0, "/tandem_trace", 2, "tandem_trace"},
      {0, "/tandem_trace", gone, "tandem_trace: missing"},
      {0, "/policy", "best", "window policy"},
      {0, "/policy", 1, "policy: must be a string"},
      {0, "/acceptance", "both", "acceptance"},
      {0, "/block_size", 0, "block_size"},
      {0, "/block_size", 65, "block_size"},
      {0, "/block_size", 1.5, "block_size"},
      {0, "/numerics_id", nullptr, "numerics_id"},
      {0, "/step_time", json::array(), "step_time"},
      {0, "/step_time/kappa_seconds", -1, "step_time: kappa_seconds"},
      {0, "/step_time/table_seconds/0", "x", "step_time: table_seconds[0]"},
      {0, "/more", 1, "unknown field `more`"},
      {1, "/anchors", -1, "anchors"},
      {1, "/anchors", 1, "sequences: must be a list of at most anchors (1)"},
      {1, "/anchors", gone, "anchors: missing"},
      {1, "/kv_positions", 18446744073709551615u, "kv_positions"},
      {2, "/prefill_tokens", 1e3, "prefill_tokens"},
      {2, "/max_draft_rows", true, "max_draft_rows"},
      {2, "/draft_seconds", -1e-9, "draft_seconds"},
      {2, "/utilization", "0", "utilization"},
      {2, "/predicted_seconds", 0, "predicted_seconds"},
      {2, "/real_seconds", 1e9, "real_seconds"},
      {2, "/sequences", 1, "sequences"},
      {2, "/sequences/1/order", -1, "sequences[1]: order"},
      {2, "/sequences/1/drafted", 1, "sequences[1]: drafted"},
      {2, "/sequences/1/probe", gone, "sequences[1]: probe: missing"},
      {2, "/sequences/0/survivals/1", 1.5, "sequences[0]: survivals[1]"},
      {2, "/sequences/0/survivals/1", 0.95, "sequences[0]: survivals[1]: rises"},
      {2, "/sequences/0/survivals", json::array({1, 1, 1, 1, 1}), "up to 4 numbers"},
      {2, "/sequences/0/confidences/0", nullptr, "confidences[0]"},
      {2, "/sequences/0/confidences", json::array({1}),
       "confidences: must be none or as many as survivals (3)"},
      {2, "/sequences/0/window", 4, "window: must be an integer in [0, 3]"},
      {2, "/sequences/0/accepted", 3, "accepted: must be an integer in [0, 2]"},
      {2, "/sequences/0/extra", 3, "unknown field `extra`"},
  };
  for (const Row& row : rows) {
    std::vector<json> lines = good;
    const json::json_pointer pointer(row.pointer);
    if (row.value.is_discarded()) {
      lines[row.line][pointer.parent_pointer()].erase(pointer.back());
    } else {
      lines[row.line][pointer] = row.value;
    }
    std::string text;
    for (const json& line : lines) text += line.dump() + "\n";
    EXPECT_THAT(ErrorOf(text),
                AllOf(HasSubstr(path_ + ":" + std::to_string(row.line + 1) + ": "), HasSubstr(row.message)))
        << row.pointer;
  }
}

TEST_F(DecisionTraceTest, RefusesWhatIsNoTrace) {
  WriteTrace(1);
  const std::string good = testing::ReadFile(path_);
  EXPECT_THAT(ErrorOf(""), HasSubstr("empty"));
  EXPECT_THAT(ErrorOf("\n"), HasSubstr(":1: "));
  EXPECT_THAT(ErrorOf("hello\n"), HasSubstr(":1: "));
  EXPECT_THAT(ErrorOf("{}\n"), HasSubstr("tandem_trace: missing"));
  EXPECT_THAT(ErrorOf(good + "\n"), HasSubstr(":3: "));
  EXPECT_THAT(ErrorOf(good + "[]\n"), AllOf(HasSubstr(":3: "), HasSubstr("not a JSON object")));
  EXPECT_THAT(ErrorOf(good + good), HasSubstr(":3: "));
  EXPECT_THAT(ErrorOf(good.substr(0, good.size() - 5)),
              AllOf(HasSubstr(":2: "), HasSubstr("middle of a line")));
  EXPECT_THAT(ErrorOf(std::string(TraceReader::kMaxLineBytes + 1, ' ')), HasSubstr(":1: longer than"));
}

// Every way to cut or damage a byte is read or refused, never more.
TEST_F(DecisionTraceTest, SurvivesDamage) {
  WriteTrace(1);
  const std::string good = testing::ReadFile(path_);
  std::mt19937_64 rng(1);
  int num_refused = 0;
  for (int round = 0; round < 500; ++round) {
    std::string text = good;
    text[rng() % text.size()] = static_cast<char>(rng());
    if (round % 3 == 0) text.resize(rng() % text.size());
    std::ofstream(path_, std::ios::binary) << text;
    auto reader = TraceReader::Open(path_);
    StepDecision step;
    num_refused += !reader.ok() || !(*reader)->Next(step).ok();
  }
  EXPECT_GT(num_refused, 250);
}

}  // namespace
}  // namespace tandem::verifier
