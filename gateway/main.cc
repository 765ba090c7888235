// tandem-gateway: client streams in front, verifiers behind.
//
// Start: options, files, bind, connect, ready with the first verifier. Stop (SIGTERM, SIGINT): not ready but
// serving for
// --drain-delay; then new requests are refused and running ones may end until --drain-timeout; then
// everything is cancelled and joined, exit 0. A second signal ends the process at once.
#include <iostream>
#include <optional>
#include <string>

#include "absl/synchronization/notification.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/base/termination.h"
#include "common/formats/mapped_file_guard.h"
#include "common/formats/model_digest.h"
#include "common/rpc/server.h"
#include "gateway/gateway_options.h"
#include "gateway/gateway_process.h"

namespace tandem::gateway {
namespace {

constexpr char kProgram[] = "tandem-gateway";

int Main(int argc, const char* const* argv) {
  TerminationWaiter::BlockSignals();
  formats::GuardMappedFiles(kProgram);
  GatewayOptions options;
  OptionParser parser(kProgram,
                      "Serves clients over HTTP and gRPC and batches their requests over verifiers.");
  AddGatewayOptions(parser, &options);
  if (const std::optional<int> code = parser.Parse(argc, argv)) return *code;
  if (const absl::Status status = CheckGatewayOptions(options); !status.ok()) {
    std::cerr << kProgram << ": " << status.message() << " (try --help)" << std::endl;
    return 2;
  }
  const absl::StatusOr<std::string> path = ResolveModel(options.model);
  if (!path.ok()) return ReportStartFault(kProgram, path.status());
  if (const absl::Status status = formats::CheckModelDigest(*path, options.model_sha256); !status.ok()) {
    return ReportStartFault(kProgram, status);
  }
  absl::StatusOr<ModelText> model = LoadModelText(*path);
  if (!model.ok()) return ReportStartFault(kProgram, model.status());
  if (parser.check_config()) return 0;

  rpc::RaiseDescriptorLimit();
  absl::Notification stop;
  TerminationWaiter waiter([&stop](int) { stop.Notify(); });
  GatewayProcess gateway(options, ModelName(options, *path));
  if (const absl::Status status = gateway.Start(*std::move(model), RunLinks(options)); !status.ok()) {
    return ReportStartFault(kProgram, status);
  }
  std::cout << gateway.ListeningLine() << std::endl;
  stop.WaitForNotification();
  gateway.Stop();
  return 0;
}

}  // namespace
}  // namespace tandem::gateway

int main(int argc, char** argv) { return tandem::gateway::Main(argc, argv); }
