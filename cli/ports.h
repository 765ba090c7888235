// Free ports.
#pragma once

#include "common/base/option_values.h"

namespace tandem::cli {

// Whether a server could listen there now (IPv4). Somebody may take it the next moment: the server's own bind
// decides.
bool IsPortFree(const Address& address);

}  // namespace tandem::cli
