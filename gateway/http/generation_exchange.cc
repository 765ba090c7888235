#include "gateway/http/generation_exchange.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "gateway/errors.h"

namespace tandem::gateway::http {
namespace {

std::unique_ptr<AnswerFormat> NewFormat(const ParsedGeneration& parsed, const HttpServer::Options& server) {
  AnswerOptions options{.request_id = parsed.request.request_id,
                        .choices_per_prompt = parsed.request.n.value_or(1),
                        .logprobs = parsed.request.num_logprobs.has_value(),
                        .include_usage = parsed.include_usage,
                        .speculation_metrics = server.speculation_metrics || parsed.include_drafts,
                        .prediction_tokens = server.prediction_tokens,
                        .drafted_spans = parsed.include_drafts};
  return parsed.request.api == "chat" ? NewChatFormat(std::move(options))
                                      : NewCompletionFormat(std::move(options));
}

EventBuffer::Options BufferOptions(const ParsedGeneration& parsed, const HttpServer::Options& options,
                                   std::function<void()> wake) {
  return {.wake_at_deltas = parsed.stream,
          .keep_tokens = parsed.request.num_logprobs.has_value(),
          .keep_spans = parsed.include_drafts,
          .max_bytes = parsed.stream ? options.stream_buffer_bytes : options.whole_answer_bytes,
          .overflow =
              parsed.stream ? error::WriteStalled(options.write_stall) : error::OutOfMemory(absl::Seconds(1)),
          .wake = std::move(wake)};
}

}  // namespace

GenerationExchange::GenerationExchange(AnswerPort& port, ServerState& state,
                                       const boost::asio::any_io_executor& strand, const char* route,
                                       const ParsedGeneration& parsed, std::function<void()> wake)
    : port_(port),
      state_(state),
      route_(route),
      stream_(parsed.stream),
      request_id_(parsed.request.request_id),
      format_(NewFormat(parsed, state.options)),
      ping_timer_(strand, [this] { Ping(); }),
      buffer_(BufferOptions(parsed, state.options, std::move(wake))) {
  state_.observer.OnStreams(route_, ++state_.open_streams);
}

GenerationExchange::~GenerationExchange() {
  state_.observer.OnStreams(route_, --state_.open_streams);
  generation_.reset();
}

absl::Status GenerationExchange::Start(GenerationRequest request) {
  ASSIGN_OR_RETURN(generation_, state_.generator.Start(std::move(request), buffer_));
  return absl::OkStatus();
}

void GenerationExchange::Pump() {
  if (ended_ || (begun_ && port_.writing())) return;
  EventBuffer::Events events = buffer_.Take();
  if (stream_) {
    PumpStream(std::move(events));
  } else {
    PumpWhole(std::move(events));
  }
  if (ended_) generation_.reset();
}

Headers GenerationExchange::AnswerHeaders(const Started& started) const {
  return {{"x-request-id", started.request_id}, {"x-tandem-seed", std::to_string(started.seed)}};
}

void GenerationExchange::PumpStream(EventBuffer::Events events) {
  std::string bytes;
  if (events.started) {
    format_->OnStarted(*events.started, state_.options.clock->WallNow());
    Answer head{.headers = AnswerHeaders(*events.started),
                .content_type = "text/event-stream; charset=utf-8"};
    head.headers.emplace_back("Cache-Control", "no-cache");
    head.headers.emplace_back("X-Accel-Buffering", "no");
    port_.BeginStream(std::move(head));
    begun_ = true;
    format_->AppendOpening(&bytes);
  }
  for (const ChoiceOutput& output : events.outputs) format_->AppendOutput(output, &bytes);
  if (!events.error.ok()) {
    if (!bytes.empty()) port_.SendStream(bytes);
    return EndWithError(events.error);
  }
  if (events.all_finished) format_->AppendClosing(&bytes);
  if (!bytes.empty()) port_.SendStream(bytes);
  if (begun_) ping_timer_.Set(state_.options.ping_interval);
  if (!events.all_finished) return;
  ended_ = true;
  ping_timer_.Cancel();
  port_.EndStream(/*keep_alive=*/true);
}

void GenerationExchange::PumpWhole(EventBuffer::Events events) {
  if (!events.error.ok()) return EndWithError(events.error);
  TANDEM_CHECK(events.all_finished && events.started.has_value());  // the only other end to wake for
  std::sort(events.outputs.begin(), events.outputs.end(),
            [](const ChoiceOutput& a, const ChoiceOutput& b) { return a.choice < b.choice; });
  format_->OnStarted(*events.started, state_.options.clock->WallNow());
  ended_ = true;
  port_.SendAnswer({.headers = AnswerHeaders(*events.started), .body = format_->Whole(events.outputs)});
}

void GenerationExchange::EndWithError(const absl::Status& error) {
  ended_ = true;
  ping_timer_.Cancel();
  if (!begun_) {
    Answer answer = ErrorAnswer(error);
    answer.headers.emplace_back("x-request-id", request_id_);
    return port_.SendAnswer(std::move(answer));
  }
  if (ReasonOf(error) == ErrorReason::kWriteStall) {  // nobody reads an event either
    state_.observer.OnWriteStall();
    return port_.Fail();
  }
  port_.SendStream("data: " + ErrorBody(error) + "\n\n");
  port_.EndStream(/*keep_alive=*/false);
}

void GenerationExchange::Ping() {
  if (ended_ || !begun_) return;
  if (!port_.writing()) port_.SendStream(": ping\n\n");
  ping_timer_.Set(state_.options.ping_interval);
}

}  // namespace tandem::gateway::http
