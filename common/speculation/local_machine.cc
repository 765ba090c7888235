#include "common/speculation/local_machine.h"

#include <unistd.h>

#include <fstream>

namespace tandem::speculation {

LocalMachine ReadLocalMachine(const std::string& boot_id_path) {
  LocalMachine machine;
  machine.uid = geteuid();
  std::ifstream file(boot_id_path);
  std::getline(file, machine.boot_id);
  return machine;
}

}  // namespace tandem::speculation
