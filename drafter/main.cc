// tandem-drafter: guesses tokens ahead for its verifiers.
//
// Start: options, files, bind, load, ready. Liveness is served from bind on. All weights are packed, that is
// copied, while loading, and the files are closed before the first step. Stop (SIGTERM, SIGINT): verifiers
// are told and their streams end at once, since they go on without drafts; exit 0. A second signal ends the
// process at once.
#include <iostream>
#include <optional>

#include "absl/synchronization/notification.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/base/termination.h"
#include "common/formats/mapped_file_guard.h"
#include "common/kernels/dispatch.h"
#include "common/rpc/server.h"
#include "drafter/drafter_options.h"
#include "drafter/drafter_process.h"

namespace tandem::drafter {
namespace {

constexpr char kProgram[] = "tandem-drafter";

int Main(int argc, const char* const* argv) {
  TerminationWaiter::BlockSignals();
  formats::GuardMappedFiles(kProgram);
  DrafterOptions options;
  OptionParser parser(kProgram, "Guesses tokens ahead for its verifiers.");
  AddDrafterOptions(parser, &options);
  if (const std::optional<int> code = parser.Parse(argc, argv)) return *code;
  if (const absl::Status status = CheckDrafterOptions(options); !status.ok()) {
    std::cerr << kProgram << ": " << status.message() << " (try --help)" << std::endl;
    return 2;
  }
  absl::StatusOr<ModelFiles> files = OpenFiles(options);
  if (!files.ok()) return ReportStartFault(kProgram, files.status());
  // TANDEM_TARGET, before other threads start.
  if (const absl::Status status = kernels::SelectTargetFromEnvironment(); !status.ok()) {
    return ReportStartFault(kProgram, status);
  }
  if (parser.check_config()) return 0;

  rpc::RaiseDescriptorLimit();
  absl::Notification stop;
  TerminationWaiter waiter([&stop](int) { stop.Notify(); });
  const std::optional<Script> script = files->script;
  DrafterProcess drafter(options, script);
  if (const absl::Status status = drafter.Bind(); !status.ok()) return ReportStartFault(kProgram, status);
  std::cout << drafter.ListeningLine() << std::endl;
  if (const absl::Status status = drafter.Load(*std::move(files)); !status.ok()) {
    return ReportStartFault(kProgram, status);
  }
  if (!stop.HasBeenNotified()) drafter.SetReady();
  stop.WaitForNotification();
  drafter.Stop();
  return 0;
}

}  // namespace
}  // namespace tandem::drafter

int main(int argc, char** argv) { return tandem::drafter::Main(argc, argv); }
