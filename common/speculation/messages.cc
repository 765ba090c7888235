#include "common/speculation/messages.h"

namespace tandem::speculation {

const char* AcceptanceModeName(AcceptanceMode mode) {
  return mode == AcceptanceMode::kCoupled ? "coupled" : "rejection";
}

const char* RowTypeName(RowType type) { return type == RowType::kF32 ? "f32" : "bf16"; }

const char* RowTransportName(RowTransport transport) {
  return transport == RowTransport::kInline ? "inline" : "shm";
}

}  // namespace tandem::speculation
