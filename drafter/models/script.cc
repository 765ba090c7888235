#include "drafter/models/script.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/base/status.h"
#include "common/formats/json.h"
#include "common/speculation/messages.h"

namespace tandem::drafter {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxId = 1 << 24;
constexpr int64_t kMaxDelayMs = 600'000;

absl::StatusOr<int64_t> Integer(const Json& object, const char* key, int64_t min, int64_t max) {
  const Json& value = object.at(key);
  if (!value.is_number_integer() || value.get<int64_t>() < min || value.get<int64_t>() > max)
    return InvalidArgument("{} must be an integer in {}..{}", key, min, max);
  return value.get<int64_t>();
}

absl::StatusOr<std::vector<int32_t>> Tokens(const Json& object, const char* key, size_t max_size) {
  const Json& value = object.at(key);
  const bool fits = value.is_array() && !value.empty() && value.size() <= max_size &&
                    std::all_of(value.begin(), value.end(), [](const Json& id) {
                      return id.is_number_integer() && id.get<int64_t>() >= 0 && id.get<int64_t>() < kMaxId;
                    });
  if (!fits) return InvalidArgument("{} must be 1..{} token ids", key, max_size);
  return value.get<std::vector<int32_t>>();
}

absl::Status ReadHead(const Json& line, Script& script) {
  if (line.contains("block_size")) {
    ASSIGN_OR_RETURN(const int64_t size, Integer(line, "block_size", 1, speculation::kMaxBlockSize));
    script.block_size = static_cast<int32_t>(size);
  }
  if (line.contains("vocab_size")) {
    ASSIGN_OR_RETURN(const int64_t size, Integer(line, "vocab_size", 1, kMaxId));
    script.vocab_size = static_cast<int32_t>(size);
  }
  if (line.contains("confidence")) {
    if (!line["confidence"].is_number()) return InvalidArgument("confidence must be a number");
    script.has_confidence = true;
    script.confidence = line["confidence"].get<float>();
  }
  return absl::OkStatus();
}

absl::Status ReadRule(const Json& line, Script& script) {
  if (line["rule"] == "repeat") {
    script.rule = Script::Rule::kRepeat;
  } else if (line["rule"] == "successor" && script.vocab_size > 0) {
    script.rule = Script::Rule::kSuccessor;
  } else {
    return InvalidArgument("rule must be repeat, or successor after a line with vocab_size");
  }
  return absl::OkStatus();
}

absl::Status ReadMisdeed(const Json& line, Script& script) {
  const std::vector<std::string>& names = MisbehaviourNames();
  const Json& name = line["misbehave"];
  const auto found = name.is_string() ? std::ranges::find(names, name.get<std::string>()) : names.end();
  if (found == names.end()) return InvalidArgument("misbehave must be one of {}", fmt::join(names, ", "));
  Script::Misdeed misdeed{static_cast<Misbehaviour>(found - names.begin())};
  if (line.contains("every")) {
    ASSIGN_OR_RETURN(misdeed.every, Integer(line, "every", 1, std::numeric_limits<int32_t>::max()));
  }
  script.misdeeds.push_back(misdeed);
  return absl::OkStatus();
}

absl::Status ReadLine(const Json& line, Script& script) {
  if (!line.is_object()) return InvalidArgument("must be an object");
  if (line.contains("text")) {
    ASSIGN_OR_RETURN(std::vector<int32_t> text, Tokens(line, "text", kMaxId));
    script.texts.push_back(std::move(text));
  } else if (line.contains("position")) {
    ASSIGN_OR_RETURN(const int64_t position, Integer(line, "position", 1, kMaxId));
    if (!line.contains("tokens")) return InvalidArgument("tokens are missing");
    ASSIGN_OR_RETURN(std::vector<int32_t> tokens, Tokens(line, "tokens", script.block_size));
    script.by_position[static_cast<int32_t>(position)] = std::move(tokens);
  } else if (line.contains("rule")) {
    return ReadRule(line, script);
  } else if (line.contains("delay_ms")) {
    ASSIGN_OR_RETURN(const int64_t delay, Integer(line, "delay_ms", 0, kMaxDelayMs));
    script.delay = absl::Milliseconds(delay);
  } else if (line.contains("misbehave")) {
    return ReadMisdeed(line, script);
  } else if (line.contains("block_size") || line.contains("vocab_size") || line.contains("confidence")) {
    return ReadHead(line, script);
  } else {
    return InvalidArgument("none of text, position, rule, delay_ms, misbehave, block_size, vocab_size");
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<std::string>& MisbehaviourNames() {
  static const std::vector<std::string> names{
      "too_many_tokens", "no_tokens",        "id_beyond_vocab", "negative_id",
      "nan_confidence",  "wrong_epoch",      "stale_length",    "wrong_anchor",
      "wrong_round",     "unknown_sequence", "number_gap",      "credit_falls",
      "flood",           "silence",          "out_of_sync",     "wrong_projection"};
  return names;
}

absl::StatusOr<Script> ParseScript(const std::string& text) {
  Script script;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    absl::StatusOr<Json> json = formats::ParseJson(line);
    const absl::Status status = json.ok() ? ReadLine(*json, script) : json.status();
    if (!status.ok()) return Annotate(status, fmt::format("line {}", number));
  }
  return script;
}

absl::StatusOr<Script> ReadScript(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Unavailable("script {} cannot be read", path);
  std::stringstream text;
  text << file.rdbuf();
  absl::StatusOr<Script> script = ParseScript(text.str());
  if (!script.ok()) return Annotate(script.status(), path);
  return script;
}

}  // namespace tandem::drafter
