#include "cli/up.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>

#include "cli/chat_session.h"
#include "cli/stack_options.h"
#include "cli/supervisor.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/base/termination.h"

namespace tandem::cli {
namespace {

constexpr char kProgram[] = "tandem up";

// Streams one answer to the terminal; greedy, so that the sample is the same everywhere.
absl::Status Ask(const Address& http, const std::string& question) {
  ChatSession session(http, {.temperature = 0});
  std::cout << "> " << question << "\n" << std::flush;
  ASSIGN_OR_RETURN(const ChatSession::Answer answer, session.Ask(question, [](std::string_view text, bool) {
    std::cout << text << std::flush;
    return true;
  }));
  std::cout << "\n" << FormatSpeed(answer) << "\n" << std::flush;
  return absl::OkStatus();
}

}  // namespace

int UpMain(int argc, const char* const* argv) {
  TerminationWaiter::BlockSignals();
  Address http{"127.0.0.1", 8000, ""}, grpc{"127.0.0.1", 8001, ""};
  std::string model = kDefaultModel, drafter = "auto", ask;
  std::vector<std::string> settings;
  absl::Duration stop_timeout = absl::Seconds(45);
  OptionParser parser(
      kProgram,
      "Starts drafter, verifier and gateway, restarts what dies, and stops all on Ctrl-C or SIGTERM.");
  parser.AddString("model", &model, "a model file or directory, or a name that is pulled if missing");
  parser.AddString("drafter", &drafter, kDrafterHelp);
  parser.AddAddress("http", &http, "where clients reach the OpenAI API; port 0: any free port");
  parser.AddAddress("grpc", &grpc, "where clients reach the gRPC API; port 0: any free port");
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

  Supervisor supervisor(*options);
  if (const absl::Status status = supervisor.Start(wake_fd); !status.ok()) {
    supervisor.Stop(stop_timeout);
    if (absl::IsCancelled(status)) return 0;
    return ReportStartFault(kProgram, status);
  }
  std::cout << "ready http=" << supervisor.http().ToString() << " grpc=" << supervisor.grpc().ToString()
            << " metrics=" << supervisor.metrics() << std::endl;
  if (!ask.empty()) {
    if (const absl::Status status = Ask(supervisor.http(), ask); !status.ok()) {
      std::cerr << kProgram << ": " << status.message() << "\n";
    }
    std::cout << "serving until Ctrl-C; try: tandem chat --http " << supervisor.http().ToString()
              << std::endl;
  }
  supervisor.Run(wake_fd);
  supervisor.Stop(stop_timeout);
  return 0;
}

}  // namespace tandem::cli
