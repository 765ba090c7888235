// The gRPC front door: service tandem.v1.Generation, translated to the Generator and back.
//
// Methods are raw: gRPC's own decoding would answer bad bytes with an empty UNIMPLEMENTED, ours names what is
// wrong.
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include <atomic>

#include "absl/time/time.h"
#include "gateway/admission/generator.h"
#include "gateway/door_observer.h"
#include "gateway/limits.h"
#include "tandem/v1/generation.grpc.pb.h"

namespace tandem::gateway {

// The raw form of every method.
using RawGenerationService = v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_Tokenize<v1::Generation::WithRawCallbackMethod_Detokenize<
        v1::Generation::WithRawCallbackMethod_ListModels<v1::Generation::Service>>>>;

// Thread-safe. Borrows generator and observer; outlives the server that it is registered with.
class GenerationService : public RawGenerationService {
 public:
  struct Options {
    absl::Duration write_stall = limits::kWriteStall;  // without the client taking a message
    int64_t stream_buffer_bytes = limits::kStreamBufferBytes;
  };
  GenerationService(Generator& generator, DoorObserver& observer, const Options& options)
      : generator_(generator), observer_(observer), options_(options) {}

  // Generate calls that have not ended.
  int open_streams() const { return open_streams_.load(); }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  Generator& generator_;
  DoorObserver& observer_;
  const Options options_;
  std::atomic<int> open_streams_{0};
};

}  // namespace tandem::gateway
