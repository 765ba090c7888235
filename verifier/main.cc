// tandem-verifier: holds the model and extends the sequences of its gateways.
//
// Start: options, files, bind, load, warm up, ready. Liveness is served from bind on. All weights are packed,
// that is copied, while loading, and the files are closed before the first step: a file that is truncated
// later cannot hurt. Stop (SIGTERM, SIGINT): not ready but serving for --drain-delay; then new streams are
// refused, gateways are told and running sequences may end until --drain-timeout; then everything is
// cancelled and joined, exit 0. A second signal ends the process at once.
#include <iostream>
#include <optional>

#include "absl/synchronization/notification.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/base/termination.h"
#include "common/formats/mapped_file_guard.h"
#include "common/kernels/dispatch.h"
#include "common/rpc/server.h"
#include "verifier/verifier_options.h"
#include "verifier/verifier_process.h"

namespace tandem::verifier {
namespace {

constexpr char kProgram[] = "tandem-verifier";

int Main(int argc, const char* const* argv) {
  TerminationWaiter::BlockSignals();
  formats::GuardMappedFiles(kProgram);
  VerifierOptions options;
  OptionParser parser(kProgram, "Holds a model and extends the sequences of its gateways.");
  AddVerifierOptions(parser, &options);
  if (const std::optional<int> code = parser.Parse(argc, argv)) return *code;
  if (const absl::Status status = CheckVerifierOptions(options); !status.ok()) {
    std::cerr << kProgram << ": " << status.message() << " (try --help)" << std::endl;
    return 2;
  }
  absl::StatusOr<ModelFiles> files = OpenModel(options);
  if (!files.ok()) return ReportStartFault(kProgram, files.status());
  // TANDEM_TARGET, before other threads start.
  if (const absl::Status status = kernels::SelectTargetFromEnvironment(); !status.ok()) {
    return ReportStartFault(kProgram, status);
  }
  if (parser.check_config()) return 0;

  rpc::RaiseDescriptorLimit();
  absl::Notification stop;
  TerminationWaiter waiter([&stop](int) { stop.Notify(); });
  VerifierProcess verifier(options);
  if (const absl::Status status = verifier.Bind(); !status.ok()) return ReportStartFault(kProgram, status);
  std::cout << verifier.ListeningLine() << std::endl;
  if (const absl::Status status = verifier.Load(*std::move(files)); !status.ok()) {
    return ReportStartFault(kProgram, status);
  }
  if (!stop.HasBeenNotified()) verifier.SetReady();
  stop.WaitForNotification();
  verifier.Stop();
  return 0;
}

}  // namespace
}  // namespace tandem::verifier

int main(int argc, char** argv) { return tandem::verifier::Main(argc, argv); }
