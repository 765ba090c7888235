// A request's JSON body on each route, from its bytes to the tokens of its prompts. The first byte picks the
// route.
#include <string>

#include "gateway/http/json_body.h"
#include "gateway/http/requests.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/replay_generator.h"

namespace tandem::fuzz {
namespace {

// Counts what a request leads to.
struct CountingSink : gateway::EventSink {
  void OnStarted(const gateway::Started&) override { ++started; }
  void OnDelta(gateway::Delta) override {}
  void OnFinished(const gateway::Finished&) override {}
  void OnAllFinished() override { ++ended; }
  void OnError(const absl::Status&) override { TANDEM_CHECK(false); }
  int started = 0, ended = 0;
};

absl::Status Generate(ReplayGenerator& generator, absl::StatusOr<gateway::http::ParsedGeneration> parsed) {
  RETURN_IF_ERROR(parsed.status());
  CountingSink sink;
  RETURN_IF_ERROR(generator.Start(std::move(parsed->request), sink).status());
  TANDEM_CHECK(sink.started == 1 && sink.ended == 1);
  return absl::OkStatus();
}

absl::Status Answer(ReplayGenerator& generator, int route, std::string_view text) {
  ASSIGN_OR_RETURN(const auto body, gateway::http::ParseJsonBody(text));
  switch (route % 4) {
    case 0:
      return Generate(generator, gateway::http::ParseChatRequest(body));
    case 1:
      return Generate(generator, gateway::http::ParseCompletionRequest(body));
    case 2: {
      ASSIGN_OR_RETURN(const auto parsed, gateway::http::ParseTokenizeRequest(body));
      return generator.Tokenize(parsed.request).status();
    }
    default: {
      ASSIGN_OR_RETURN(const auto request, gateway::http::ParseDetokenizeRequest(body));
      return generator.Detokenize(request.model, "tokens", request.tokens).status();
    }
  }
}

}  // namespace
}  // namespace tandem::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static tandem::fuzz::ReplayGenerator generator;
  if (size == 0) return 0;
  const absl::Status status =
      tandem::fuzz::Answer(generator, data[0], tandem::fuzz::View(data + 1, size - 1));
  if (!status.ok()) tandem::fuzz::CheckClientError(status);
  return 0;
}
