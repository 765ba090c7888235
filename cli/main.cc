// The user's command. Each subcommand parses its own options (`tandem COMMAND --help`).
#include <fmt/format.h>

#include <cstring>
#include <iostream>

#include "cli/bench.h"
#include "cli/chat.h"
#include "cli/doctor.h"
#include "cli/pull.h"
#include "cli/replay.h"
#include "cli/up.h"
#include "cli/verify_lossless.h"

namespace {

struct Command {
  const char* name;
  const char* what;
  int (*main)(int argc, const char* const* argv);
};

constexpr Command kCommands[] = {
    {"up", "start drafter, verifier and gateway on this machine and keep them running", tandem::cli::UpMain},
    {"chat", "talk to a model on the terminal", tandem::cli::ChatMain},
    {"bench", "measure latency and throughput, or compare window policies", tandem::cli::BenchMain},
    {"verify-lossless", "show that speculation does not change the text", tandem::cli::VerifyLosslessMain},
    {"replay", "run other window policies over a recorded trace", tandem::cli::ReplayMain},
    {"doctor", "check this machine, or probe a process's health", tandem::cli::DoctorMain},
    {"pull", "download a named model", tandem::cli::PullMain},
};

void PrintUsage(std::ostream& out) {
  out << "Usage: tandem COMMAND [OPTIONS]\n\nServes a large language model on this machine or from "
         "it.\n\nCommands:\n";
  for (const Command& command : kCommands) out << fmt::format("  {:<17}{}\n", command.name, command.what);
  out << "\n`tandem COMMAND --help` shows a command's options.\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    PrintUsage(std::cerr);
    return 2;
  }
  if (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0) {
    PrintUsage(std::cout);
    return 0;
  }
  if (std::strcmp(argv[1], "--version") == 0) {
    std::cout << "tandem " << TANDEM_VERSION << "\n";
    return 0;
  }
  for (const Command& command : kCommands) {
    if (std::strcmp(argv[1], command.name) == 0) return command.main(argc - 1, argv + 1);
  }
  std::cerr << "tandem: unknown command " << argv[1] << "; see tandem --help\n";
  return 2;
}
