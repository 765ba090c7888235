#include "gateway/admission/resident_bytes.h"

#include <unistd.h>

#include <fstream>

namespace tandem::gateway {

int64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;  // pages
  if (!(file >> size >> resident)) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace tandem::gateway
