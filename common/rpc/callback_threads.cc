#include "common/rpc/callback_threads.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

namespace tandem::rpc {

void KeepCallbackThreads() {
  struct Reactor : grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
    void OnDone(const grpc::Status&) override { delete this; }
    grpc::ClientContext context;
  };
  static grpc::GenericStub* const stub = [] {
    auto* made = new grpc::GenericStub(grpc::CreateCustomChannel("", nullptr, {}));
    auto* reactor = new Reactor;
    made->PrepareBidiStreamingCall(&reactor->context, "/nowhere/Nothing", {}, reactor);
    reactor->StartCall();
    return made;
  }();
  static_cast<void>(stub);
}

}  // namespace tandem::rpc
