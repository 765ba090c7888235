#include "cli/event_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace tandem::cli {
namespace {

TEST(EventStreamTest, JoinsEventsHoweverTheBytesArrive) {
  const std::string bytes = ": ping\n\ndata: {\"a\":1}\r\n\r\nid: 7\ndata: x\ndata:y\n\ndata: [DONE]\n\n";
  for (size_t piece = 1; piece <= bytes.size(); ++piece) {
    EventStream stream;
    std::vector<std::string> events;
    for (size_t i = 0; i < bytes.size(); i += piece) {
      stream.Push(std::string_view(bytes).substr(i, piece),
                  [&](std::string_view data) { events.emplace_back(data); });
    }
    EXPECT_THAT(events, testing::ElementsAre("{\"a\":1}", "x\ny", "[DONE]"));
  }
}

TEST(EventStreamTest, AnEventWithoutItsBlankLineIsNotOneYet) {
  EventStream stream;
  stream.Push("data: x\n", [](std::string_view) { FAIL(); });
}

}  // namespace
}  // namespace tandem::cli
