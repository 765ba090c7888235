#include "common/text/chat_template.h"

#include <ctime>

#include "common/base/status.h"
#include "common/text/jinja_budget.h"
#include "common/text/jinja_eval.h"
#include "common/text/jinja_parser.h"
#include "nlohmann/json.hpp"

namespace tandem::text {
namespace {

constexpr size_t kMaxSourceBytes = 1 << 20;  // templates in use have up to some 20 KB

// Counts this thread's work, not its waiting: a busy machine is no reason to refuse a conversation.
class ThreadCpuClock : public Clock {
 public:
  absl::Duration Now() const override {
    timespec time = {};
    TANDEM_CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0);
    return absl::DurationFromTimespec(time);
  }
  absl::Time WallNow() const override { return Clock::Real().WallNow(); }
};

class JinjaChatTemplate : public ChatTemplate {
 public:
  JinjaChatTemplate(jinja::Body body, std::string bos_token, std::string eos_token,
                    const TemplateLimits& limits)
      : body_(std::move(body)),
        bos_token_(std::move(bos_token)),
        eos_token_(std::move(eos_token)),
        limits_(limits) {}

  absl::StatusOr<std::vector<Span>> Render(const Inputs& inputs) const override {
    if (inputs.messages == nullptr) return InvalidArgument("no messages");
    std::map<std::string, jinja::Value> variables;
    for (const auto& [name, value] : inputs.extra) variables[name] = jinja::Value::Of(value);
    ASSIGN_OR_RETURN(variables["messages"], jinja::Value::FromInput(*inputs.messages));
    variables["tools"] = jinja::Value::OfNone();
    if (inputs.tools != nullptr) {
      ASSIGN_OR_RETURN(variables["tools"], jinja::Value::FromInput(*inputs.tools));
    }
    variables["documents"] = jinja::Value::OfNone();
    variables["add_generation_prompt"] = jinja::Value::Of(inputs.add_generation_prompt);
    if (!bos_token_.empty()) variables["bos_token"] = jinja::Value::Of(bos_token_);
    if (!eos_token_.empty()) variables["eos_token"] = jinja::Value::Of(eos_token_);
    const ThreadCpuClock clock;
    jinja::Budget budget(limits_, clock);
    ASSIGN_OR_RETURN(const jinja::Text text, jinja::Render(body_, std::move(variables), budget));
    return text.Spans();
  }

 private:
  // Constant after construction; a rendering keeps all its state to itself.
  const jinja::Body body_;
  const std::string bos_token_, eos_token_;
  const TemplateLimits limits_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Create(const std::string& source,
                                                                   const std::string& bos_token,
                                                                   const std::string& eos_token,
                                                                   const TemplateLimits& limits) {
  if (source.size() > kMaxSourceBytes) {
    return InvalidArgument("chat template has {} bytes, at most {} are read", source.size(), kMaxSourceBytes);
  }
  absl::StatusOr<jinja::Body> body = jinja::Parse(source);
  if (!body.ok()) return Annotate(body.status(), "chat template");
  return std::make_unique<JinjaChatTemplate>(*std::move(body), bos_token, eos_token, limits);
}

std::string JoinSpans(std::span<const Span> spans) {
  std::string text;
  for (const Span& span : spans) text += span.text;
  return text;
}

}  // namespace tandem::text
