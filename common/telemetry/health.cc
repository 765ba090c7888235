#include "common/telemetry/health.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/server.h>

#include <utility>

namespace tandem::telemetry {

Health::Health(std::vector<std::string> service_names) : service_names_(std::move(service_names)) {}

void Health::SetReady(bool ready) {
  absl::MutexLock lock(&mu_);
  ready_ = ready;
  Publish();
}

void Health::SetLive(bool live) {
  absl::MutexLock lock(&mu_);
  live_ = live;
  Publish();
}

bool Health::live() const {
  absl::MutexLock lock(&mu_);
  return live_;
}

bool Health::ready() const {
  absl::MutexLock lock(&mu_);
  return live_ && ready_;
}

void Health::Attach(grpc::Server& server) {
  absl::MutexLock lock(&mu_);
  server_ = &server;
  Publish();
}

void Health::Detach() {
  absl::MutexLock lock(&mu_);
  server_ = nullptr;
}

void Health::Publish() {
  if (server_ == nullptr) return;
  grpc::HealthCheckServiceInterface* service = server_->GetHealthCheckService();
  if (service == nullptr) return;  // this server was built without
  service->SetServingStatus("liveness", live_);
  const bool ready = live_ && ready_;
  for (const std::string& name : service_names_) service->SetServingStatus(name, ready);
  service->SetServingStatus("", ready);
  service->SetServingStatus("readiness", ready);  // last: whoever sees it finds the others so, too
}

void EnableGrpcHealth() { grpc::EnableDefaultHealthCheckService(true); }

}  // namespace tandem::telemetry
