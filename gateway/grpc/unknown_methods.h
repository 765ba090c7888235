// Answers calls of methods that no service has: with a message and details, and counted, where gRPC itself
// would say UNIMPLEMENTED and nothing else.
#pragma once

#include <grpcpp/generic/async_generic_service.h>

#include "gateway/door_observer.h"

namespace tandem::gateway {

// Thread-safe. Borrows the observer; outlives the server that it is registered with.
class UnknownMethods : public grpc::CallbackGenericService {
 public:
  explicit UnknownMethods(DoorObserver& observer) : observer_(observer) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override;

 private:
  DoorObserver& observer_;
};

}  // namespace tandem::gateway
