// Which machine and user this process belongs to, as hellos say it: shared memory works between equal ones.
#pragma once

#include <cstdint>
#include <string>

namespace tandem::speculation {

struct LocalMachine {
  std::string boot_id;  // of the kernel, new at every boot; empty if it cannot be read
  uint32_t uid = 0;     // effective
};

LocalMachine ReadLocalMachine(const std::string& boot_id_path = "/proc/sys/kernel/random/boot_id");

// Whether a ring made by one can be read by the other. A container with an own /dev/shm looks equal too: the
// ring's nonce, which the reader echoes, is what proves it.
inline bool MayShareMemory(const LocalMachine& a, const LocalMachine& b) {
  return !a.boot_id.empty() && a.boot_id == b.boot_id && a.uid == b.uid;
}

}  // namespace tandem::speculation
