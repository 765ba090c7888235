#include "cli/chat.h"

#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <iostream>

#include "cli/chat_session.h"
#include "cli/engine_access.h"
#include "cli/stack_options.h"
#include "common/base/options.h"
#include "common/base/status.h"

namespace tandem::cli {
namespace {

constexpr char kProgram[] = "tandem chat";

// Ctrl-C ends the answer that runs; at the prompt it ends the program (the read is interrupted).
volatile sig_atomic_t interrupted = 0;
void OnInterrupt(int) { interrupted = 1; }

// False at the end of input or after Ctrl-C.
bool ReadQuestion(bool terminal, std::string& line) {
  if (terminal) std::cerr << "> " << std::flush;
  return static_cast<bool>(std::getline(std::cin, line)) && interrupted == 0;
}

// Accepted drafts in green, what the model wrote itself as it is.
void Print(std::string_view text, bool drafted, bool show_drafts) {
  if (show_drafts && drafted) {
    std::cout << "\x1b[32m" << text << "\x1b[0m" << std::flush;
  } else {
    std::cout << text << std::flush;
  }
}

int Converse(ChatSession& session, bool terminal, bool show_drafts) {
  int failures = 0;
  for (std::string line; ReadQuestion(terminal, line);) {
    if (line.empty()) continue;
    if (line == "/exit" || line == "/quit") break;
    if (line == "/reset") {
      session.Reset();
      continue;
    }
    const auto answer = session.Ask(line, [&](std::string_view text, bool drafted) {
      Print(text, drafted, show_drafts);
      return interrupted == 0;
    });
    std::cout << std::endl;
    if (answer.ok()) {
      std::cerr << FormatSpeed(*answer) << std::endl;
    } else {
      std::cerr << kProgram << ": " << answer.status().message() << std::endl;
      ++failures;
    }
    interrupted = 0;
  }
  return failures == 0 ? 0 : 1;
}

}  // namespace

int ChatMain(int argc, const char* const* argv) {
  std::string http, model, drafter = "auto";
  bool show_drafts = false;
  ChatOptions chat;
  double temperature = -1;
  int64_t seed = 0, max_tokens = 0;
  OptionParser parser(
      kProgram,
      "Chats with a running gateway, or starts one for the time being. Reads a "
      "question per line; /reset forgets the conversation, /exit or Ctrl-D ends, Ctrl-C stops an answer.");
  parser.AddString("http", &http, "the gateway's HOST:PORT; default: 127.0.0.1:8000 if one is ready there");
  parser.AddString("model", &model, "start an engine with this model (file, directory or name) instead");
  parser.AddString("drafter", &drafter, std::string("of an engine started here: ") + kDrafterHelp);
  parser.AddFlag("show-drafts", &show_drafts, "text that came from accepted drafts in green");
  parser.AddString("system", &chat.system, "system message; empty: the model's own");
  parser.AddNumber("temperature", &temperature, -1, 2, "0 = greedy; -1: the server's default");
  parser.AddInteger("seed", &seed, INT64_MIN, INT64_MAX, "seed of every answer; absent: random");
  parser.AddInteger("max-tokens", &max_tokens, 0, INT32_MAX, "tokens per answer; 0: what the context holds");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  if (parser.check_config()) return 0;
  if (temperature >= 0) chat.temperature = temperature;
  if (parser.IsSet("seed")) chat.seed = seed;
  if (max_tokens > 0) chat.max_tokens = max_tokens;

  signal(SIGPIPE, SIG_IGN);
  auto access = EngineAccess::Open(http, model, drafter, {});
  if (!access.ok()) return ReportStartFault(kProgram, access.status());
  struct sigaction action {};
  action.sa_handler = OnInterrupt;  // without SA_RESTART: a read at the prompt ends
  sigaction(SIGINT, &action, nullptr);
  ChatSession session((*access)->http(), chat);
  return Converse(session, isatty(STDIN_FILENO) != 0, show_drafts);
}

}  // namespace tandem::cli
