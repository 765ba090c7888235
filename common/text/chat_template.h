// A model's chat template (Jinja source from its files), interpreted in a sandbox.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json_fwd.hpp"

namespace tandem::text {

// Bounds on one rendering; beyond them it ends with kResourceExhausted.
struct TemplateLimits {
  int64_t max_steps = 100'000;         // statements and expressions evaluated
  int64_t max_output_bytes = 1 << 20;  // also bounds any single string
  int64_t max_milliseconds = 50;       // of the thread's CPU time
};

// Thread-safe after creation.
class ChatTemplate {
 public:
  // Parses the source with trim_blocks and lstrip_blocks on, as transformers does. An unsupported construct
  // is kUnimplemented with its line and name; bad syntax kInvalidArgument with its line.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Create(const std::string& source,
                                                              const std::string& bos_token,
                                                              const std::string& eos_token,
                                                              const TemplateLimits& limits = {});
  virtual ~ChatTemplate() = default;

  struct Inputs {
    // [{"role": ..., "content": text or parts}, ...], keys in order. Without tools, `tools` is none, as
    // transformers has it.
    const nlohmann::ordered_json* messages = nullptr;
    const nlohmann::ordered_json* tools = nullptr;
    bool add_generation_prompt = true;
    std::map<std::string, bool> extra;  // e.g. enable_thinking
  };
  // The rendered text in spans: what came out of the inputs (strings of messages and tools, however the
  // template cut or joined them) is untrusted, what the template wrote is trusted. raise_exception(m) is
  // kInvalidArgument with m.
  virtual absl::StatusOr<std::vector<Span>> Render(const Inputs& inputs) const = 0;
};

// The spans' text without their trust.
std::string JoinSpans(std::span<const Span> spans);

}  // namespace tandem::text
