#include "common/rpc/call_metrics.h"

#include "absl/status/status.h"

namespace tandem::rpc {
namespace {

constexpr char kOther[] = "other";

std::string CodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));  // the numbers are the same
}

// Of one call, from its metadata until its status is sent.
class CallTimer : public grpc::experimental::Interceptor {
 public:
  CallTimer(CallMetrics& calls, const Clock& clock, const char* path)
      : calls_(calls), clock_(clock), path_(path), begin_(clock.Now()) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      calls_.Observe(path_, methods->GetSendStatus().error_code(), clock_.Now() - begin_);
    }
    methods->Proceed();
  }

 private:
  CallMetrics& calls_;
  const Clock& clock_;
  const std::string path_;
  const absl::Duration begin_;
};

class CallTimerFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  CallTimerFactory(CallMetrics& calls, const Clock& clock) : calls_(calls), clock_(clock) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(grpc::experimental::ServerRpcInfo* info) override {
    return new CallTimer(calls_, clock_, info->method());  // gRPC's from here on
  }

 private:
  CallMetrics& calls_;
  const Clock& clock_;
};

}  // namespace

CallMetrics::CallMetrics(telemetry::Metrics& metrics, const std::vector<Method>& methods)
    : other_(Declare(metrics, kOther, {})) {
  for (const Method& method : methods) {
    by_path_[method.path] = Declare(metrics, method.path.substr(method.path.rfind('/') + 1), method.codes);
  }
}

CallMetrics::Series CallMetrics::Declare(telemetry::Metrics& metrics, const std::string& method,
                                         const std::vector<grpc::StatusCode>& codes) {
  const auto add = [&](const std::string& code) {
    return &metrics.AddHistogram("rpc_server_duration_seconds", "Duration of calls, streams as a whole",
                                 telemetry::EndToEndBuckets(), {{"method", method}, {"code", code}});
  };
  Series series;
  series.by_code[grpc::StatusCode::OK] = add(CodeName(grpc::StatusCode::OK));
  for (const grpc::StatusCode code : codes) series.by_code[code] = add(CodeName(code));
  series.other = add(kOther);
  return series;
}

void CallMetrics::Observe(std::string_view path, grpc::StatusCode code, absl::Duration duration) {
  const auto method = by_path_.find(path);
  const Series& series = method == by_path_.end() ? other_ : method->second;
  const auto known = series.by_code.find(code);
  (known == series.by_code.end() ? series.other : known->second)->Observe(absl::ToDoubleSeconds(duration));
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> NewCallTimer(CallMetrics& calls,
                                                                                    const Clock& clock) {
  return std::make_unique<CallTimerFactory>(calls, clock);
}

}  // namespace tandem::rpc
