#include "gateway/grpc/unknown_methods.h"

#include "gateway/errors.h"
#include "gateway/grpc/status_details.h"

namespace tandem::gateway {
namespace {

class Refusal : public grpc::ServerGenericBidiReactor {
 public:
  explicit Refusal(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerGenericBidiReactor* UnknownMethods::CreateReactor(grpc::GenericCallbackServerContext* context) {
  const absl::Status status = error::RouteNotFound(context->method());
  observer_.OnRefused("grpc", status);
  return new Refusal(FinalStatus(status, *context));  // deletes itself
}

}  // namespace tandem::gateway
