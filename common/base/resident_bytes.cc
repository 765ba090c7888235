#include "common/base/resident_bytes.h"

#include <unistd.h>

#include <fstream>

namespace tandem {

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;  // pages
  if (!(file >> size >> resident)) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace tandem
