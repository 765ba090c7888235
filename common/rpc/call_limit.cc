#include "common/rpc/call_limit.h"

#include <grpcpp/server_context.h>

namespace tandem::rpc {
namespace {

// Lives as long as its call.
class CallCounter : public grpc::experimental::Interceptor {
 public:
  CallCounter(CallLimit& limit, std::string peer) : limit_(limit), peer_(std::move(peer)) {
    limit_.Begin(peer_);
  }
  ~CallCounter() override { limit_.End(peer_); }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override { methods->Proceed(); }

 private:
  CallLimit& limit_;
  const std::string peer_;
};

class CallCounterFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit CallCounterFactory(CallLimit& limit) : limit_(limit) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallCounter(limit_, info->server_context()->peer());  // gRPC's from here on
  }

 private:
  CallLimit& limit_;
};

}  // namespace

void CallLimit::Begin(const std::string& peer) {
  {
    absl::MutexLock lock(&mu_);
    Calls& calls = by_peer_[peer];
    if (++calls.alive <= max_calls_ || calls.in_excess) return;
    calls.in_excess = true;
  }
  on_excess_(peer);
}

void CallLimit::End(const std::string& peer) {
  absl::MutexLock lock(&mu_);
  const auto found = by_peer_.find(peer);
  if (--found->second.alive == 0) by_peer_.erase(found);
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewCallCounter(CallLimit& limit) {
  return std::make_unique<CallCounterFactory>(limit);
}

}  // namespace tandem::rpc
