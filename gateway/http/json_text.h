// Pieces of JSON, appended to a string: answers and events have fixed shapes, so they are written, not built
// as a tree first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::gateway::http {

// A quoted string; bytes that are not UTF-8 become U+FFFD.
void AppendJsonText(std::string_view text, std::string* out);

// [104, 105] without blanks.
void AppendJsonBytes(std::string_view bytes, std::string* out);

// Shortest text that reads back as the same float. JSON has no infinity: a logprob below -9999 is -9999.0, as
// OpenAI's API has it.
void AppendJsonLogprob(float logprob, std::string* out);

}  // namespace tandem::gateway::http
