#include "cli/up.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>

#include "cli/chat_session.h"
#include "cli/one_process.h"
#include "cli/stack_options.h"
#include "cli/supervisor.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/base/termination.h"
#include "common/formats/mapped_file_guard.h"

namespace tandem::cli {
namespace {

constexpr char kProgram[] = "tandem up";

// Streams one answer to the terminal, with a seed of its own, so that the sample is the same everywhere. Not
// greedy: small models fall into loops.
absl::Status Ask(const Address& http, const std::string& question) {
  ChatSession session(http, {.temperature = 0.7, .seed = 1});
  std::cout << "> " << question << "\n" << std::flush;
  ASSIGN_OR_RETURN(const ChatSession::Answer answer, session.Ask(question, [](std::string_view text, bool) {
    std::cout << text << std::flush;
    return true;
  }));
  std::cout << "\n" << FormatSpeed(answer) << "\n" << std::flush;
  return absl::OkStatus();
}

// The one line that scripts read, and the answer to --ask.
void ShowReady(const Address& http, const Address& grpc, const std::string& metrics, const std::string& ask) {
  std::cout << "ready http=" << http.ToString() << " grpc=" << grpc.ToString() << " metrics=" << metrics
            << std::endl;
  if (ask.empty()) return;
  if (const absl::Status status = Ask(http, ask); !status.ok())
    std::cerr << kProgram << ": " << status.message() << "\n";
  std::cout << "serving until Ctrl-C; try: tandem chat --http " << http.ToString() << std::endl;
}

// --one-process, until wake_fd is readable.
int RunHere(const Supervisor::Options& options, const std::string& ask, int wake_fd) {
  const auto engine = OneProcess::Start(options);
  if (!engine.ok()) return ReportStartFault(kProgram, engine.status());
  ShowReady((*engine)->http(), (*engine)->grpc(), (*engine)->metrics(), ask);
  pollfd wake{wake_fd, POLLIN, 0};
  while (poll(&wake, 1, -1) < 0 && errno == EINTR) {
  }
  (*engine)->Stop();
  return 0;
}

}  // namespace

int UpMain(int argc, const char* const* argv) {
  TerminationWaiter::BlockSignals();
  Address http{"127.0.0.1", 8000, ""}, grpc{"127.0.0.1", 8001, ""};
  std::string model = kDefaultModel, drafter = "auto", ask;
  bool one_process = false;
  std::vector<std::string> settings;
  absl::Duration stop_timeout = absl::Seconds(45);
  OptionParser parser(
      kProgram,
      "Starts drafter, verifier and gateway, restarts what dies, and stops all on Ctrl-C or SIGTERM.");
  parser.AddString("model", &model, "a model file or directory, or a name that is pulled if missing");
  parser.AddString("drafter", &drafter, kDrafterHelp);
  parser.AddAddress("http", &http, "where clients reach the OpenAI API; port 0: any free port");
  parser.AddAddress("grpc", &grpc, "where clients reach the gRPC API; port 0: any free port");
  parser.AddFlag("one-process", &one_process,
                 "all three in this process, without gRPC between them; nothing is restarted");
  parser.AddStringList("set", &settings,
                       "PROCESS.FLAG=VALUE: a flag for drafter, verifier or gateway (see their --help)");
  parser.AddDuration("stop-timeout", &stop_timeout, absl::Seconds(1), absl::Hours(1),
                     "how long running requests may take to end after Ctrl-C");
  parser.AddString("ask", &ask, "a question to answer on the terminal once ready");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  absl::StatusOr<Supervisor::Options> options = StackOptions(model, drafter, settings);
  if (absl::IsInvalidArgument(options.status())) {
    std::cerr << kProgram << ": " << options.status().message() << "\n";
    return 2;
  }
  if (!options.ok()) return ReportStartFault(kProgram, options.status());
  options->http = http;
  options->grpc = grpc;
  if (parser.check_config()) return 0;

  const int wake_fd = eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) return ReportStartFault(kProgram, Unavailable("eventfd: {}", std::strerror(errno)));
  TerminationWaiter waiter([wake_fd](int) { eventfd_write(wake_fd, 1); });

  if (one_process) {
    formats::GuardMappedFiles(kProgram);
    return RunHere(*options, ask, wake_fd);
  }
  Supervisor supervisor(*options);
  if (const absl::Status status = supervisor.Start(wake_fd); !status.ok()) {
    supervisor.Stop(stop_timeout);
    if (absl::IsCancelled(status)) return 0;
    return ReportStartFault(kProgram, status);
  }
  ShowReady(supervisor.http(), supervisor.grpc(), supervisor.metrics(), ask);
  supervisor.Run(wake_fd);
  supervisor.Stop(stop_timeout);
  return 0;
}

}  // namespace tandem::cli
