#include "cli/local_verifier_link.h"

#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "gateway/run_link/run_messages.h"
#include "verifier/service/run_messages.h"
#include "verifier/service/run_outbox.h"

namespace tandem::cli {
namespace {

using gateway::VerifierLink;

// What both sides of one stream share; the step loop's sink holds it, too.
class Stream {
 public:
  Stream(const verifier::RunIdentity& identity, VerifierLink::Listener& listener, verifier::Report first)
      : outbox_(verifier::MakeHello(identity), std::move(first)), listener_(&listener) {}

  verifier::RunOutbox& outbox() { return outbox_; }

  // Hands on what the verifier has to say. In order, whoever calls.
  void Deliver() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    for (v1::RunResponse message; listener_ != nullptr && outbox_.Take(message); message.Clear()) {
      if (message.has_hello()) listener_->OnHello(gateway::ReadHello(message.hello()));
      if (message.has_report()) listener_->OnReport(gateway::ReadReport(message.report()));
    }
  }
  // The listener's last call.
  void End(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (VerifierLink::Listener* const listener = std::exchange(listener_, nullptr); listener != nullptr)
      listener->OnClosed(why);
  }

 private:
  verifier::RunOutbox outbox_;
  absl::Mutex mu_;
  VerifierLink::Listener* listener_ ABSL_GUARDED_BY(mu_);
};

class LocalVerifierLink final : public VerifierLink {
 public:
  LocalVerifierLink(verifier::StepLoop& loop, verifier::RunIdentity identity)
      : loop_(loop), identity_(std::move(identity)) {}
  ~LocalVerifierLink() override { Close(absl::CancelledError("the gateway stops")); }

  void Connect(const gateway::GatewayHello& hello, Listener& listener) override {
    TANDEM_CHECK(stream_ == nullptr);
    v1::GatewayHello message;
    gateway::FillHello(hello, message);
    if (const absl::Status fit = verifier::CheckHello(identity_, message).status; !fit.ok())
      return listener.OnClosed(fit);
    const verifier::EngineStats stats = loop_.stats();
    verifier::Report present;
    present.kv_free_blocks = stats.blocks_free;
    present.kv_cached_blocks = stats.blocks_cached;
    present.running_sequences = stats.running_sequences;
    present.utilization = stats.utilization;
    present.sequence_share = identity_.max_sequences;
    present.prefill_token_share = identity_.max_step_tokens;
    stream_ = std::make_shared<Stream>(identity_, listener, present);
    stream_->outbox().PutHeartbeat(present);  // a first report, behind the hello
    num_plans_ = 0;
    id_ = loop_.OpenStream([stream = stream_](verifier::Report report) {
      stream->outbox().Put(std::move(report));
      stream->Deliver();
    });
    stream_->Deliver();
  }

  uint64_t SendPlan(gateway::Plan plan) override {
    if (stream_ == nullptr) return 0;
    const uint64_t number = ++num_plans_;
    v1::Plan message;
    gateway::FillPlan(plan, number, message);
    absl::StatusOr<verifier::CheckedPlan> checked =
        verifier::CheckPlan(message, {identity_.vocab_size, identity_.max_model_len});
    if (!checked.ok()) {
      Close(checked.status());
      return number;
    }
    if (!checked->refused.empty()) {
      stream_->outbox().PutEnded(std::move(checked->refused));
      stream_->Deliver();
    }
    loop_.PostPlan(id_, std::move(checked->plan));
    return number;
  }

  void Close(const absl::Status& why) override {
    if (stream_ == nullptr) return;
    loop_.CloseStream(id_);  // without the stream's lock: it waits for the sink
    std::exchange(stream_, nullptr)->End(why);
  }

  const std::string& name() const override { return name_; }

 private:
  verifier::StepLoop& loop_;
  const verifier::RunIdentity identity_;
  const std::string name_ = "in this process";
  // Of the calling thread.
  std::shared_ptr<Stream> stream_;
  verifier::StreamId id_ = 0;
  uint64_t num_plans_ = 0;
};

}  // namespace

std::unique_ptr<VerifierLink> NewLocalVerifierLink(verifier::StepLoop& loop,
                                                   const verifier::RunIdentity& identity) {
  return std::make_unique<LocalVerifierLink>(loop, identity);
}

}  // namespace tandem::cli
