#include "cli/one_process.h"

#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "cli/http_client.h"
#include "cli/local_drafter_link.h"
#include "cli/local_verifier_link.h"
#include "cli/ports.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/formats/model_digest.h"
#include "common/kernels/dispatch.h"
#include "common/rpc/server.h"
#include "drafter/drafter_process.h"
#include "gateway/gateway_process.h"
#include "verifier/verifier_process.h"

namespace tandem::cli {
namespace {

constexpr absl::Duration kReadyPoll = absl::Milliseconds(5);

// Takes a process's flags as its command line would; `arguments` without dashes.
absl::Status Parse(OptionParser& parser, const std::string& process,
                   const std::vector<std::pair<std::string, std::string>>& arguments,
                   const std::vector<ProcessFlag>& flags) {
  std::vector<std::string> words = {"tandem-" + process};
  for (const auto& [name, value] : arguments) words.push_back("--" + name + "=" + value);
  for (const ProcessFlag& flag : flags) {
    if (flag.process == process) words.push_back("--" + flag.flag + "=" + flag.value);
  }
  std::vector<const char*> argv;
  for (const std::string& word : words) argv.push_back(word.c_str());
  std::ostringstream out, error;
  if (parser.Parse(static_cast<int>(argv.size()), argv.data(), out, error)) {
    std::string message = error.str();
    while (message.ends_with('\n')) message.pop_back();
    return InvalidArgument("{}", message);
  }
  return absl::OkStatus();
}

std::string MetricsAddress(uint16_t port) {
  const Address address{"127.0.0.1", port, ""};
  return IsPortFree(address) ? address.ToString() : "127.0.0.1:0";
}

class Engine final : public OneProcess {
 public:
  ~Engine() override { Stop(); }

  absl::Status Run(const Supervisor::Options& options) {
    RETURN_IF_ERROR(kernels::SelectTargetFromEnvironment());
    rpc::RaiseDescriptorLimit();
    if (!options.drafter.empty()) RETURN_IF_ERROR(StartDrafter(options));
    RETURN_IF_ERROR(StartVerifier(options));
    RETURN_IF_ERROR(StartGateway(options));
    return AwaitReady(options.start_timeout);
  }

  // Each before what it calls.
  void Stop() override {
    if (gateway_) gateway_->Stop();
    gateway_.reset();
    if (verifier_) verifier_->Stop();
    verifier_.reset();
    if (drafter_) drafter_->Stop();
    drafter_.reset();
  }

  const Address& http() const override { return http_; }
  const Address& grpc() const override { return grpc_; }
  std::string metrics() const override { return metrics_; }

 private:
  absl::Status StartDrafter(const Supervisor::Options& options) {
    OptionParser parser("tandem-drafter", "");
    drafter::AddDrafterOptions(parser, &drafter_options_);
    RETURN_IF_ERROR(
        Parse(parser, "drafter",
              {{"model", options.drafter}, {"target", options.model}, {"metrics", MetricsAddress(8022)}},
              options.flags));
    RETURN_IF_ERROR(drafter::CheckDrafterOptions(drafter_options_));
    ASSIGN_OR_RETURN(drafter::ModelFiles files, drafter::OpenFiles(drafter_options_));
    script_ = files.script;
    auto process = std::make_unique<drafter::DrafterProcess>(drafter_options_, script_);
    RETURN_IF_ERROR(process->BindMetrics());
    RETURN_IF_ERROR(process->Load(std::move(files)));
    process->SetReady();
    drafter_ = std::move(process);
    return absl::OkStatus();
  }

  absl::Status StartVerifier(const Supervisor::Options& options) {
    OptionParser parser("tandem-verifier", "");
    verifier::AddVerifierOptions(parser, &verifier_options_);
    RETURN_IF_ERROR(Parse(parser, "verifier", {{"model", options.model}, {"metrics", MetricsAddress(8012)}},
                          options.flags));
    std::vector<verifier::DrafterEndpoint> drafters;
    verifier_options_.drafters.clear();
    if (drafter_) {
      drafters.push_back(
          {NewLocalDrafterLink(drafter_->loop(), drafter_->identity()), /*on_this_machine=*/true});
      verifier_options_.drafters.push_back({"in this process", 1, ""});  // stands for the link
    }
    RETURN_IF_ERROR(verifier::CheckVerifierOptions(verifier_options_));
    ASSIGN_OR_RETURN(verifier::ModelFiles files, verifier::OpenModel(verifier_options_));
    auto process = std::make_unique<verifier::VerifierProcess>(verifier_options_);
    RETURN_IF_ERROR(process->BindMetrics());
    RETURN_IF_ERROR(process->Load(std::move(files), std::move(drafters)));
    process->SetReady();
    verifier_ = std::move(process);
    return absl::OkStatus();
  }

  absl::Status StartGateway(const Supervisor::Options& options) {
    OptionParser parser("tandem-gateway", "");
    gateway::AddGatewayOptions(parser, &gateway_options_);
    RETURN_IF_ERROR(Parse(parser, "gateway",
                          {{"model", options.model},
                           {"served-model-name", options.model_name},
                           {"http", options.http.ToString()},
                           {"grpc", options.grpc.ToString()},
                           {"metrics", MetricsAddress(8002)}},
                          options.flags));
    RETURN_IF_ERROR(gateway::CheckGatewayOptions(gateway_options_));
    ASSIGN_OR_RETURN(const std::string path, ResolveModel(gateway_options_.model));
    RETURN_IF_ERROR(formats::CheckModelDigest(path, gateway_options_.model_sha256));
    ASSIGN_OR_RETURN(gateway::ModelText text, gateway::LoadModelText(path));
    std::vector<std::unique_ptr<gateway::VerifierLink>> links;
    links.push_back(NewLocalVerifierLink(verifier_->loop(), verifier_->identity()));
    auto process = std::make_unique<gateway::GatewayProcess>(gateway_options_,
                                                             gateway::ModelName(gateway_options_, path));
    RETURN_IF_ERROR(process->Start(std::move(text), std::move(links)));
    gateway_ = std::move(process);
    http_ = gateway_->http_address();
    grpc_ = gateway_->grpc_address();
    metrics_ = fmt::format("gateway@{},verifier@{}", gateway_->metrics_address().ToString(),
                           verifier_->metrics_address().ToString());
    if (drafter_) metrics_ += ",drafter@" + drafter_->metrics_address().ToString();
    return absl::OkStatus();
  }

  absl::Status AwaitReady(absl::Duration timeout) const {
    const absl::Time deadline = absl::Now() + timeout;
    HttpClient client(http_, absl::Seconds(5));
    while (absl::Now() < deadline) {
      const absl::StatusOr<HttpAnswer> answer = client.Get("/ready");
      if (answer.ok() && answer->status == 200) return absl::OkStatus();
      absl::SleepFor(kReadyPoll);
    }
    return absl::DeadlineExceededError("not ready in time");
  }

  drafter::DrafterOptions drafter_options_;
  std::optional<drafter::Script> script_;
  verifier::VerifierOptions verifier_options_;
  gateway::GatewayOptions gateway_options_;
  std::unique_ptr<drafter::DrafterProcess> drafter_;  // null: none
  std::unique_ptr<verifier::VerifierProcess> verifier_;
  std::unique_ptr<gateway::GatewayProcess> gateway_;
  Address http_, grpc_;
  std::string metrics_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<OneProcess>> OneProcess::Start(const Supervisor::Options& options) {
  auto engine = std::make_unique<Engine>();
  RETURN_IF_ERROR(engine->Run(options));
  return engine;
}

}  // namespace tandem::cli
