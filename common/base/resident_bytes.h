#pragma once

#include <cstdint>

namespace tandem {

// Memory that the process has in use now, bytes; 0 if the system does not tell. A few microseconds.
int64_t ResidentBytes();

}  // namespace tandem
