#include "gateway/admission/core.h"

#include <algorithm>
#include <random>
#include <utility>

#include "common/base/status.h"
#include "common/text/detokenizer.h"
#include "gateway/errors.h"

namespace tandem::gateway {
namespace {

uint64_t Random64() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

class RunningGeneration : public Generation {
 public:
  RunningGeneration(std::string request_id, std::shared_ptr<SinkGate> sink, std::shared_ptr<EventLoop> loop,
                    Batcher* batcher, uint64_t key)
      : request_id_(std::move(request_id)),
        sink_(std::move(sink)),
        loop_(std::move(loop)),
        batcher_(batcher),
        key_(key) {}

  ~RunningGeneration() override {
    sink_->Close();
    // A stopped loop drops this, so the batcher is there whenever it runs.
    loop_->Post([batcher = batcher_, key = key_] { batcher->Cancel(key); });
  }

  const std::string& request_id() const override { return request_id_; }

 private:
  const std::string request_id_;
  const std::shared_ptr<SinkGate> sink_;
  const std::shared_ptr<EventLoop> loop_;
  Batcher* const batcher_;
  const uint64_t key_;
};

}  // namespace

// Takes what a link says to the loop's thread.
class Core::Ear : public VerifierLink::Listener {
 public:
  Ear(EventLoop& loop, int index, std::string name, Observer& observer)
      : loop_(loop), index_(index), name_(std::move(name)), observer_(observer) {}
  void Attach(Batcher* batcher) { batcher_ = batcher; }

  void OnHello(VerifierHello hello) override {
    loop_.Post(
        [b = batcher_, i = index_, hello = std::move(hello)]() mutable { b->OnHello(i, std::move(hello)); });
  }
  void OnReport(Report report) override {
    loop_.Post([b = batcher_, i = index_, report = std::move(report)]() mutable {
      b->OnReport(i, std::move(report));
    });
  }
  void OnDraining(absl::Duration) override {
    loop_.Post([b = batcher_, i = index_] { b->OnDraining(i); });
  }
  void OnSource(std::shared_ptr<MessageSource> source) override {
    loop_.Post([&loop = loop_, i = index_, source = std::move(source)]() mutable {
      loop.Watch(i, std::move(source));
    });
  }
  void OnFallback(absl::Status why) override {
    loop_.Post([this, why = std::move(why)] { observer_.OnFallback(name_, why); });
  }
  void OnClosed(absl::Status why) override {
    loop_.Post([this, why = std::move(why)]() mutable {
      // What came last is heard, too, before the end.
      if (const auto source = loop_.Unwatch(index_)) source->OnReady();
      loop_.Post(
          [b = batcher_, i = index_, why = std::move(why)]() mutable { b->OnClosed(i, std::move(why)); });
    });
  }

 private:
  EventLoop& loop_;
  const int index_;
  const std::string name_;
  Observer& observer_;
  Batcher* batcher_ = nullptr;  // constant once attached, before the first Connect
};

absl::StatusOr<std::unique_ptr<Core>> Core::Create(CoreOptions options, ModelText text,
                                                   std::vector<std::unique_ptr<VerifierLink>> links,
                                                   const Clock& clock, Observer& observer) {
  if (links.empty()) return InvalidArgument("verifier: at least one address is needed");
  if (options.model_id.empty()) return InvalidArgument("served model name is empty");
  const size_t most_eos = limits::kStopIdsPerSequence - limits::kStopTokenIds;
  if (text.eos_token_ids.size() > most_eos) {
    return InvalidArgument("model has {} EOS ids, at most {} are supported", text.eos_token_ids.size(),
                           most_eos);
  }
  return std::unique_ptr<Core>(
      new Core(std::move(options), std::move(text), std::move(links), clock, observer));
}

Core::Core(CoreOptions options, ModelText text, std::vector<std::unique_ptr<VerifierLink>> links,
           const Clock& clock, Observer& observer)
    : options_(std::move(options)),
      text_(std::move(text)),
      clock_(clock),
      observer_(observer),
      max_model_len_(text_.max_position),
      loop_(std::make_shared<EventLoop>(clock)),
      links_(std::move(links)) {
  door_.set_max_predicted_wait(options_.max_predicted_wait);
  BatcherOptions batcher_options;
  batcher_options.model_id = options_.model_id;
  batcher_options.incarnation = fmt::format("{:016x}", Random64());
  batcher_options.tokenizer_hash = text_.tokenizer->hash();
  batcher_options.vocab_size = text_.vocab_size;
  batcher_options.eos_token_ids = text_.eos_token_ids;
  batcher_options.prefill_token_budget = options_.prefill_token_budget;
  batcher_options.lost_verifier_wait = options_.lost_verifier_wait;
  batcher_options.no_verifier_wait = options_.no_verifier_wait;
  batcher_options.report_timeout = options_.report_timeout;
  batcher_options.jitter_seed = Random64();

  std::vector<VerifierLink*> link_pointers;
  std::vector<VerifierLink::Listener*> listeners;
  for (const auto& link : links_) {
    ears_.push_back(
        std::make_unique<Ear>(*loop_, static_cast<int>(link_pointers.size()), link->name(), observer_));
    listeners.push_back(ears_.back().get());
    link_pointers.push_back(link.get());
  }
  batcher_ = std::make_unique<Batcher>(std::move(batcher_options), *text_.tokenizer, std::move(link_pointers),
                                       std::move(listeners), door_, clock_, observer_);
  for (const auto& ear : ears_) ear->Attach(batcher_.get());
  loop_->Start([this] {
    batcher_->Advance();
    Publish();
    return batcher_->next_wake();
  });
}

Core::~Core() {
  BeginDrain();
  loop_->Post([this] { batcher_->FailAll(error::Draining(limits::kDrainDelay)); });
  loop_->Stop();
}

void Core::Publish() {
  const bool any_ready = batcher_->any_ready();
  if (any_ready_.exchange(any_ready) != any_ready) options_.on_verifiers_ready(any_ready);
  if (const int32_t longest = batcher_->max_model_len(); longest > 0) {
    max_model_len_ = std::min(longest, text_.max_position);
  }
  std::string fingerprint = any_ready ? SystemFingerprint(batcher_->identity()) : std::string();
  const std::lock_guard lock(mu_);
  num_requests_ = batcher_->num_requests();
  system_fingerprint_ = std::move(fingerprint);
  if (num_requests_ == 0) changed_.notify_all();
}

ModelFacts Core::facts() const {
  return {options_.model_id, options_.aliases, text_.vocab_size, max_model_len_, options_.template_flags};
}

absl::StatusOr<std::unique_ptr<Generation>> Core::Start(GenerationRequest request, EventSink& sink) {
  auto submission = Prepare(request);
  if (submission.ok()) {
    int choices = 0;
    for (size_t i = 0; i < submission->prompts.size(); ++i) choices += submission->params.n;
    if (absl::Status status = door_.Enter(choices); !status.ok()) submission = std::move(status);
  }
  if (!submission.ok()) {
    observer_.OnRejected(request.api, submission.status());
    return submission.status();
  }
  observer_.OnAccepted(request.api);

  auto gate = std::make_shared<SinkGate>(sink);
  submission->sink = gate;
  const uint64_t key = next_key_++;
  auto generation =
      std::make_unique<RunningGeneration>(submission->request_id, gate, loop_, batcher_.get(), key);
  {
    const std::lock_guard lock(mu_);
    ++num_submitting_;
  }
  loop_->Post([this, key, submission = *std::move(submission)]() mutable {
    batcher_->Submit(key, std::move(submission));
    const std::lock_guard lock(mu_);
    --num_submitting_;
    num_requests_ = batcher_->num_requests();
  });
  return generation;
}

absl::Status Core::CheckMemory() const {
  if (options_.memory_limit_bytes == 0) return absl::OkStatus();
  const double share =
      static_cast<double>(options_.resident_bytes()) / static_cast<double>(options_.memory_limit_bytes);
  return share < limits::kMemoryShare ? absl::OkStatus() : error::OutOfMemory(limits::kMinRetryAfter);
}

absl::StatusOr<Submission> Core::Prepare(GenerationRequest& request) {
  if (door_.draining()) return error::Draining(limits::kDrainDelay);
  RETURN_IF_ERROR(CheckMemory());
  const ModelFacts model = facts();
  Submission submission;
  submission.received = clock_.Now();
  ASSIGN_OR_RETURN(submission.params, CheckRequest(request, model));
  CheckedRequest& params = submission.params;
  if (!params.has_seed) params.sampling.seed = Random64();
  submission.request_id =
      params.request_id.empty() ? fmt::format("req-{:016x}", Random64()) : std::move(params.request_id);
  submission.api = request.api;

  const absl::Time wall_now = clock_.WallNow();
  submission.wall_deadline = std::min(request.deadline, wall_now + options_.request_deadline);
  const absl::Duration left = submission.wall_deadline - wall_now;
  if (left <= absl::ZeroDuration()) return error::DeadlineExceeded(absl::ZeroDuration());
  submission.deadline = submission.received + left;

  ASSIGN_OR_RETURN(submission.prompts, EncodePrompts(request, params, model));
  return submission;
}

absl::StatusOr<std::vector<Submission::Prompt>> Core::EncodePrompts(const GenerationRequest& request,
                                                                    const CheckedRequest& params,
                                                                    const ModelFacts& model) {
  std::vector<Submission::Prompt> prompts;
  if (request.messages) {
    Submission::Prompt prompt;
    ASSIGN_OR_RETURN(prompt.ids, EncodeMessages(*request.messages, request.chat_template_kwargs, model));
    prompts.push_back(std::move(prompt));
  }
  for (const GenerationRequest::Prompt& given : request.prompts) {
    Submission::Prompt prompt;
    if (const auto* words = std::get_if<std::string>(&given)) {
      ASSIGN_OR_RETURN(prompt.ids, EncodeText(text_, *words));
      if (params.echo) prompt.echo = *words;
    } else {
      ASSIGN_OR_RETURN(prompt.ids,
                       CheckTokenIds("prompt", std::get<std::vector<int64_t>>(given), model.vocab_size));
      if (params.echo) prompt.echo = DetokenizeIds(prompt.ids);
    }
    prompts.push_back(std::move(prompt));
  }
  for (Submission::Prompt& prompt : prompts) {
    ASSIGN_OR_RETURN(prompt.max_tokens,
                     OutputBudget(params, static_cast<int64_t>(prompt.ids.size()), model.max_model_len));
  }
  return prompts;
}

absl::StatusOr<std::vector<int32_t>> Core::Tokenize(const TokenizeRequest& request) {
  const ModelFacts known = facts();
  RETURN_IF_ERROR(CheckModelName(request.model, known));
  RETURN_IF_ERROR(CheckTemplateFlags(request.chat_template_kwargs, known));
  if (request.text.has_value() == request.messages.has_value())
    return error::Invalid("text", "exactly one of text and messages must be given");
  if (request.text) {
    RETURN_IF_ERROR(CheckPromptBytes(static_cast<int64_t>(request.text->size()), known.max_model_len));
    return EncodeText(text_, *request.text);
  }
  return EncodeMessages(*request.messages, request.chat_template_kwargs, known);
}

absl::StatusOr<std::vector<int32_t>> Core::EncodeMessages(const nlohmann::ordered_json& messages,
                                                          const std::map<std::string, bool>& flags,
                                                          const ModelFacts& model) const {
  ASSIGN_OR_RETURN(const auto checked, CheckMessages(messages));
  int64_t bytes = 0;
  for (const auto& message : checked)
    bytes += static_cast<int64_t>(message["content"].get_ref<const std::string&>().size());
  RETURN_IF_ERROR(CheckPromptBytes(bytes, model.max_model_len));
  return EncodeConversation(text_, model.id, checked, flags);
}

absl::StatusOr<std::string> Core::Detokenize(const std::string& model, const char* param,
                                             const std::vector<int64_t>& ids) {
  const ModelFacts known = facts();
  RETURN_IF_ERROR(CheckModelName(model, known));
  if (ids.size() > static_cast<size_t>(known.max_model_len))
    return error::TooMany(param, static_cast<int64_t>(ids.size()), known.max_model_len);
  ASSIGN_OR_RETURN(const auto checked, CheckTokenIds(param, ids, text_.vocab_size));
  return DetokenizeIds(checked);
}

std::string Core::DetokenizeIds(const std::vector<int32_t>& ids) const {
  text::Detokenizer detokenizer(*text_.tokenizer, /*skip_special=*/false);
  std::string out;
  for (const int32_t id : ids) out += detokenizer.Push(id);
  return out + detokenizer.Finish();
}

ModelInfo Core::model_info() const {
  ModelInfo info;
  info.id = options_.model_id;
  info.aliases = options_.aliases;
  if (std::find(info.aliases.begin(), info.aliases.end(), "default") == info.aliases.end())
    info.aliases.push_back("default");
  info.max_model_len = max_model_len_;
  info.vocab_size = text_.vocab_size;
  info.created = text_.created;
  const std::lock_guard lock(mu_);
  info.system_fingerprint = system_fingerprint_;
  return info;
}

bool Core::ready() const { return any_ready_ && !door_.draining(); }

void Core::BeginDrain() { door_.BeginDrain(); }

bool Core::WaitIdle(absl::Duration timeout) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                           [&] { return num_submitting_ == 0 && num_requests_ == 0; });
}

}  // namespace tandem::gateway
