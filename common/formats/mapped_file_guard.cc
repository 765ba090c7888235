#include "common/formats/mapped_file_guard.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "common/base/status.h"

namespace tandem::formats {
namespace {

constexpr int kExitCode = 1;  // of a fault at start, as options.h has it
constexpr size_t kPathBytes = 512;

// The handler may run at any point of any thread, so it reads nothing but this: no lock, no memory to follow.
// `end` is written last and cleared first.
struct Slot {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0}, end{0};
  char path[kPathBytes] = {};
};
Slot slots[kMaxMappedFiles];
char program_name[64] = {};
std::atomic_flag said = ATOMIC_FLAG_INIT;
struct sigaction previous;

// The last bytes of a text that is too long: the file's name is what matters.
void CopyEnd(const std::string& text, char* out, size_t size) {
  const size_t bytes = std::min(text.size(), size - 1);
  std::memcpy(out, text.data() + (text.size() - bytes), bytes);
  out[bytes] = '\0';
}

void Say(const char* text) {
  // A stderr that cannot be written leaves nobody to tell.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, std::strlen(text));
}

void OnBusError(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Slot& slot : slots) {
    const uintptr_t end = slot.end.load(std::memory_order_acquire);
    if (address >= end || address < slot.begin.load(std::memory_order_relaxed)) continue;
    // Threads that read the same file end here together: one of them speaks, and ends the others.
    while (said.test_and_set()) pause();
    Say(program_name);
    Say(": ");
    Say(slot.path);
    Say(": became unreadable while it was read: truncated by another process, or the disk fails\n");
    _exit(kExitCode);
  }
  sigaction(SIGBUS, &previous, nullptr);  // the access that brought us here is repeated and meets this
}

}  // namespace

void GuardMappedFiles(const std::string& program) {
  CopyEnd(program, program_name, sizeof program_name);
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  TANDEM_CHECK(sigaction(SIGBUS, &action, &previous) == 0);
}

MappedFileGuard::MappedFileGuard(std::span<const std::byte> mapping, const std::string& path) {
  for (int i = 0; i < kMaxMappedFiles; ++i) {
    if (slots[i].taken.exchange(true, std::memory_order_acquire)) continue;
    slot_ = i;
    CopyEnd(path, slots[i].path, kPathBytes);
    const auto begin = reinterpret_cast<uintptr_t>(mapping.data());
    slots[i].begin.store(begin, std::memory_order_relaxed);
    slots[i].end.store(begin + mapping.size(), std::memory_order_release);
    return;
  }
}

MappedFileGuard::~MappedFileGuard() {
  if (slot_ < 0) return;
  slots[slot_].end.store(0, std::memory_order_relaxed);
  slots[slot_].taken.store(false, std::memory_order_release);
}

}  // namespace tandem::formats
