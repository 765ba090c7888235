#include "gateway/telemetry/gateway_telemetry.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "gateway/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace tandem::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class GatewayTelemetryTest : public ::testing::Test {
 protected:
  GatewayTelemetryTest() : file_(std::tmpfile()), metrics_("test") {
    log_ = std::make_unique<telemetry::Logger>(telemetry::LogOptions{.service = "test", .fd = fileno(file_)});
    telemetry_ = std::make_unique<GatewayTelemetry>(metrics_, *log_, "the-model");
  }
  ~GatewayTelemetryTest() override { std::fclose(file_); }

  // The series whose line begins with tandem_`name` and has all of these labels; nullopt without such a one.
  std::optional<double> Value(const std::string& name, const std::vector<std::string>& labels = {}) {
    std::istringstream lines(metrics_.Scrape());
    for (std::string line; std::getline(lines, line);) {
      const size_t end_of_name = line.find_first_of("{ ");
      if (line.substr(0, end_of_name) != "tandem_" + name) continue;
      const bool all = std::all_of(labels.begin(), labels.end(), [&](const std::string& label) {
        return line.find(label) != std::string::npos;
      });
      if (all) return std::stod(line.substr(line.rfind(' ')));
    }
    return std::nullopt;
  }
  // The lines logged so far; ends the log.
  std::vector<nlohmann::json> Logged() {
    telemetry_.reset();
    log_.reset();
    std::rewind(file_);
    std::vector<nlohmann::json> lines;
    char line[4096];
    while (std::fgets(line, sizeof line, file_) != nullptr) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  std::FILE* const file_;
  telemetry::Metrics metrics_;
  std::unique_ptr<telemetry::Logger> log_;
  std::unique_ptr<GatewayTelemetry> telemetry_;
};

RequestSummary GoodRequest() {
  RequestSummary summary;
  summary.request_id = "r-1";
  summary.api = "chat";
  summary.finish_reason = "length";
  summary.seed = 42;
  summary.choices = 1;
  summary.prompt_tokens = 30;
  summary.cached_prompt_tokens = 16;
  summary.output_tokens = 5;
  summary.queue_time = absl::Milliseconds(20);
  summary.prefill_time = absl::Milliseconds(300);
  summary.time_to_first_token = absl::Milliseconds(320);
  summary.decode_time = absl::Milliseconds(400);
  summary.time_per_output_token = absl::Milliseconds(100);
  summary.duration = absl::Milliseconds(720);
  return summary;
}

TEST_F(GatewayTelemetryTest, EverySeriesStandsAtZeroFromTheStart) {
  for (const char* name : {"requests_accepted_total",
                           "prompt_tokens_total",
                           "cached_prompt_tokens_total",
                           "generation_tokens_total",
                           "preemptions_total",
                           "unknown_field_total",
                           "write_stalls_total",
                           "requests_waiting",
                           "requests_running",
                           "waiting_tokens",
                           "kv_cache_usage_ratio",
                           "time_to_first_token_seconds_count",
                           "time_per_output_token_seconds_count",
                           "inter_token_latency_seconds_count",
                           "request_duration_seconds_count",
                           "queue_time_seconds_count",
                           "prefill_time_seconds_count",
                           "decode_time_seconds_count",
                           "request_prompt_tokens_count",
                           "request_generation_tokens_count"}) {
    EXPECT_EQ(Value(name, {R"(model_name="the-model")"}), 0) << name;
  }
  for (const char* api : {"chat", "completions", "grpc"}) {
    const std::string label = std::string("api=\"") + api + '"';
    EXPECT_EQ(Value("requests_total", {label, R"(code="OK")", R"(finish_reason="stop")"}), 0);
    EXPECT_EQ(Value("requests_total", {label, R"(code="UNAVAILABLE")", R"(finish_reason="")"}), 0);
  }
  for (int reason = 0; reason < kNumErrorReasons; ++reason) {
    const std::string name = ErrorReasonName(static_cast<ErrorReason>(reason));
    EXPECT_EQ(Value("requests_rejected_total", {"reason=\"" + name + '"'}), 0) << name;
  }
  for (const char* state : {"down", "connecting", "ready", "draining"}) {
    EXPECT_EQ(Value("verifiers", {std::string("state=\"") + state + '"'}), 0);
  }
  EXPECT_LT(metrics_.num_series(), telemetry::kMaxSeries);
}

TEST_F(GatewayTelemetryTest, AGoodRequestIsCountedAndMeasured) {
  telemetry_->OnAccepted("chat");
  telemetry_->OnTokens(2, absl::ZeroDuration());  // the first delivery has no gap
  telemetry_->OnTokens(3, absl::Milliseconds(300));
  telemetry_->OnRequestEnd(GoodRequest());
  EXPECT_EQ(Value("requests_accepted_total"), 1);
  EXPECT_EQ(Value("requests_total", {R"(api="chat")", R"(code="OK")", R"(finish_reason="length")"}), 1);
  EXPECT_EQ(Value("requests_total", {R"(api="chat")", R"(code="OK")", R"(finish_reason="stop")"}), 0);
  EXPECT_EQ(Value("prompt_tokens_total"), 30);
  EXPECT_EQ(Value("cached_prompt_tokens_total"), 16);
  EXPECT_EQ(Value("generation_tokens_total"), 5);
  EXPECT_EQ(Value("inter_token_latency_seconds_count"), 1);
  EXPECT_DOUBLE_EQ(*Value("time_to_first_token_seconds_sum"), 0.32);
  EXPECT_DOUBLE_EQ(*Value("time_per_output_token_seconds_sum"), 0.1);
  EXPECT_DOUBLE_EQ(*Value("request_duration_seconds_sum"), 0.72);
  EXPECT_DOUBLE_EQ(*Value("queue_time_seconds_sum"), 0.02);
  EXPECT_DOUBLE_EQ(*Value("prefill_time_seconds_sum"), 0.3);
  EXPECT_DOUBLE_EQ(*Value("decode_time_seconds_sum"), 0.4);
  EXPECT_DOUBLE_EQ(*Value("request_prompt_tokens_sum"), 30);
  EXPECT_DOUBLE_EQ(*Value("request_generation_tokens_sum"), 5);

  const auto lines = Logged();
  ASSERT_THAT(lines, SizeIs(1));
  EXPECT_EQ(lines[0]["msg"], "request ended");
  EXPECT_EQ(lines[0]["request_id"], "r-1");
  EXPECT_EQ(lines[0]["code"], "OK");
  EXPECT_EQ(lines[0]["finish_reason"], "length");
  EXPECT_EQ(lines[0]["seed"], 42);
  EXPECT_EQ(lines[0]["output_tokens"], 5);
  EXPECT_EQ(lines[0]["ttft_ms"], 320);
  EXPECT_EQ(lines[0]["duration_ms"], 720);
}

TEST_F(GatewayTelemetryTest, ARequestWithoutOutputLeavesTheTimesOfTokensAlone) {
  RequestSummary summary;
  summary.api = "grpc";
  summary.status = error::NoBackend(absl::Seconds(1));
  summary.finish_reason = "";
  summary.prompt_tokens = 7;
  summary.queue_time = summary.duration = absl::Seconds(3);
  telemetry_->OnRequestEnd(summary);
  EXPECT_EQ(Value("requests_total", {R"(api="grpc")", R"(code="UNAVAILABLE")"}), 1);
  EXPECT_EQ(Value("requests_rejected_total", {R"(reason="no_backend")"}), 1) << "it has had no token";
  EXPECT_EQ(Value("request_duration_seconds_count"), 1);
  EXPECT_EQ(Value("queue_time_seconds_count"), 1);
  for (const char* name : {"time_to_first_token_seconds_count", "time_per_output_token_seconds_count",
                           "prefill_time_seconds_count", "decode_time_seconds_count"}) {
    EXPECT_EQ(Value(name), 0) << name;
  }
  EXPECT_EQ(Logged().at(0)["reason"], "no_backend");
}

TEST_F(GatewayTelemetryTest, ARefusalIsCountedOnceWhicheverDoorItCameThrough) {
  const absl::Status full = error::QueueFull(64, absl::Seconds(1));
  const std::string queue_full = R"(reason="queue_full")";
  // The HTTP door tells of what the generator refused as well, so the generator's word alone does not count.
  telemetry_->OnRejected("chat", full);
  EXPECT_EQ(Value("requests_rejected_total", {queue_full}), 0);
  telemetry_->OnRefused("chat", full);
  EXPECT_EQ(Value("requests_rejected_total", {queue_full}), 1);
  telemetry_->OnRejected("grpc", full);
  EXPECT_EQ(Value("requests_rejected_total", {queue_full}), 1);
  telemetry_->OnRefused("grpc", full);
  EXPECT_EQ(Value("requests_rejected_total", {queue_full}), 2);
  EXPECT_EQ(Value("requests_total", {R"(api="chat")", R"(code="RESOURCE_EXHAUSTED")"}), 1);
  EXPECT_EQ(Value("requests_total", {R"(api="grpc")", R"(code="RESOURCE_EXHAUSTED")"}), 1);
  EXPECT_THAT(Logged(), SizeIs(2));
}

TEST_F(GatewayTelemetryTest, TheLoadIsShownAsItIs) {
  Load load;
  load.waiting = 3;
  load.running = 8;
  load.waiting_tokens = 600;
  load.kv_total_blocks = 100;
  load.kv_free_blocks = 30;
  load.kv_cached_blocks = 20;  // can be had at once, so they are not in use
  load.kv_block_positions = 16;
  load.verifiers[static_cast<int>(VerifierState::kReady)] = 2;
  load.verifiers[static_cast<int>(VerifierState::kDown)] = 1;
  telemetry_->OnLoad(load);
  EXPECT_EQ(Value("requests_waiting"), 3);
  EXPECT_EQ(Value("requests_running"), 8);
  EXPECT_EQ(Value("waiting_tokens"), 600);
  EXPECT_DOUBLE_EQ(*Value("kv_cache_usage_ratio"), 0.5);
  EXPECT_EQ(Value("verifiers", {R"(state="ready")"}), 2);
  EXPECT_EQ(Value("verifiers", {R"(state="down")"}), 1);
  EXPECT_EQ(Value("cache_config_info", {R"(block_size="16")", R"(num_blocks="100")"}), 1);

  telemetry_->OnLoad({});  // all verifiers gone
  EXPECT_EQ(Value("kv_cache_usage_ratio"), 0);
  EXPECT_EQ(Value("verifiers", {R"(state="ready")"}), 0);
  load.kv_total_blocks = 200;
  telemetry_->OnLoad(load);
  EXPECT_EQ(Value("cache_config_info", {R"(num_blocks="200")"}), std::nullopt);  // one series a process
}

TEST_F(GatewayTelemetryTest, ValuesThatAPeerChoosesBecomeOther) {
  telemetry_->OnHandshakeFailure(0, "tokenizer_hash");
  telemetry_->OnHandshakeFailure(0, "a field of tomorrow");
  telemetry_->OnProtocolError(0, "gap");
  telemetry_->OnProtocolError(0, "a check of tomorrow");
  EXPECT_EQ(Value("handshake_failures_total", {R"(field="tokenizer_hash")", R"(peer="verifier")"}), 1);
  EXPECT_EQ(Value("handshake_failures_total", {R"(field="other")"}), 1);
  EXPECT_EQ(Value("protocol_errors_total", {R"(check="gap")", R"(peer="verifier")"}), 1);
  EXPECT_EQ(Value("protocol_errors_total", {R"(check="other")"}), 1);
  EXPECT_EQ(Value("out_of_sync_total", {R"(stream="run")"}), 1) << "the gap";
  EXPECT_THAT(metrics_.Scrape(), ::testing::Not(HasSubstr("tomorrow")));
}

TEST_F(GatewayTelemetryTest, LosingAVerifierIsAWarningAndStartingOneIsNot) {
  const absl::Status refused = absl::UnavailableError("connection refused");
  telemetry_->OnVerifierState(0, "a:1", VerifierState::kConnecting, absl::OkStatus());
  telemetry_->OnVerifierState(0, "a:1", VerifierState::kDown, refused);  // never was there
  telemetry_->OnVerifierState(0, "a:1", VerifierState::kReady, absl::OkStatus());
  telemetry_->OnVerifierState(1, "b:1", VerifierState::kDown, refused);  // another one
  telemetry_->OnVerifierState(0, "a:1", VerifierState::kDown, refused);
  telemetry_->OnVerifierState(0, "a:1", VerifierState::kDown, refused);  // told already
  const auto lines = Logged();
  ASSERT_THAT(lines, SizeIs(6));
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["level"], i == 4 ? "warning" : "info") << i;
    EXPECT_EQ(lines[i]["msg"], "verifier");
  }
  EXPECT_EQ(lines[4]["peer"], "a:1");
  EXPECT_EQ(lines[4]["state"], "down");
  EXPECT_EQ(lines[4]["error"], "connection refused");
}

TEST_F(GatewayTelemetryTest, EventsHaveTheirCounters) {
  telemetry_->OnPreemption();
  telemetry_->OnFailover("resumed");
  telemetry_->OnFailover("lost");
  telemetry_->OnFailover("lost");
  telemetry_->OnStaleMessage();
  telemetry_->OnConnections(12);
  telemetry_->OnExhausted();
  telemetry_->OnUnknownFields(3);
  telemetry_->OnWriteStall();
  EXPECT_EQ(Value("preemptions_total"), 1);
  EXPECT_EQ(Value("failovers_total", {R"(outcome="resumed")"}), 1);
  EXPECT_EQ(Value("failovers_total", {R"(outcome="lost")"}), 2);
  EXPECT_EQ(Value("stale_messages_total", {R"(stream="run")"}), 1);
  EXPECT_EQ(Value("open_connections", {R"(listener="http")"}), 12);
  EXPECT_EQ(Value("emfile_total"), 1);
  EXPECT_EQ(Value("unknown_field_total"), 3);
  EXPECT_EQ(Value("write_stalls_total"), 1);
}

}  // namespace
}  // namespace tandem::gateway
