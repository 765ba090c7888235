// A verifier link over gRPC: the client side of Verifier.Run (proto/tandem/v1/run.proto).
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/option_values.h"
#include "gateway/admission/verifier_link.h"
#include "tandem/v1/run.grpc.pb.h"

namespace tandem::gateway {

class RunLink : public VerifierLink {
 public:
  // Connects when Connect is called; a new stream each time, the channel stays.
  explicit RunLink(const Address& address);
  ~RunLink() override;

  void Connect(const GatewayHello& hello, Listener& listener) override;
  uint64_t SendPlan(Plan plan) override;
  void Close(const absl::Status& why) override;
  const std::string& name() const override { return name_; }

 private:
  class Stream;

  const std::string name_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Verifier::Stub> stub_;

  absl::Mutex mu_;
  Stream* stream_ ABSL_GUARDED_BY(mu_) = nullptr;  // owns itself until its OnDone; null between streams
};

}  // namespace tandem::gateway
