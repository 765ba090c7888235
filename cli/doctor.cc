#include "cli/doctor.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "cli/child_process.h"
#include "cli/health_probe.h"
#include "cli/ports.h"
#include "common/base/model_store.h"
#include "common/base/options.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "common/formats/checkpoint.h"
#include "common/kernels/dispatch.h"
#include "common/models/cuda_devices.h"

namespace tandem::cli {
namespace {

constexpr char kProgram[] = "tandem doctor";
constexpr int64_t kMinFreeDescriptors = 1024;

// One line per finding; counts the problems.
class Findings {
 public:
  void Fine(const std::string& what) { fmt::print("ok       {}\n", what); }
  void Note(const std::string& what, const std::string& advice) {
    fmt::print("note     {}\n         {}\n", what, advice);
  }
  void Problem(const std::string& what, const std::string& advice) {
    fmt::print("PROBLEM  {}\n         {}\n", what, advice);
    ++problems_;
  }
  int problems() const { return problems_; }

 private:
  int problems_ = 0;
};

// "key   : value" lines of /proc files; empty if there is none.
std::string ProcValue(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!absl::StartsWith(line, key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

void CheckProcessor(Findings& findings) {
  // The verifier follows this variable, and does not start with a target that the machine lacks.
  const absl::Status chosen = kernels::SelectTargetFromEnvironment();
  if (!chosen.ok()) {
    findings.Problem(std::string(chosen.message()), "unset TANDEM_TARGET, or set it to one of those");
  }
  const std::string best = kernels::AvailableTargets().front();
  const std::string model = ProcValue("/proc/cpuinfo", "model name");
  const std::string target = kernels::ActiveTarget();
  const std::string what =
      fmt::format("processor: {}, {} cores, kernels for {}", model.empty() ? "unknown" : model,
                  sysconf(_SC_NPROCESSORS_ONLN), target);
  if (chosen.ok() && target != best) {
    findings.Note(what, fmt::format("TANDEM_TARGET says so; without it {} is used", best));
  } else if (target == "SCALAR") {
    findings.Problem(what, "no AVX2 (x86) or NEON (Arm): it runs, many times slower; use a newer processor");
  } else {
    findings.Fine(what);
  }
}

void CheckBackends(Findings& findings) {
  const absl::StatusOr<std::vector<std::string>> devices = models::CudaDevices();
  if (absl::IsUnimplemented(devices.status())) {
    findings.Fine("backends: cpu; cuda is not in this build (cmake --preset cuda builds it, with nvcc)");
    return;
  }
  constexpr char kNeverRun[] =
      "the CUDA backend has never been run on a device: it is compiled, and tested emulated";
  findings.Fine("backends: cpu, cuda");
  if (!devices.ok()) {
    findings.Note(fmt::format("cuda: {}", std::string(devices.status().message())), kNeverRun);
    return;
  }
  for (const std::string& device : *devices) {
    findings.Note(device, fmt::format("{}; try it with --set verifier.device=cuda:0", kNeverRun));
  }
}

void CheckMemory(Findings& findings, int64_t model_bytes) {
  const std::string text = ProcValue("/proc/meminfo", "MemAvailable");
  const int64_t available = std::strtoll(text.c_str(), nullptr, 10) * 1024;
  // Weights packed and, for a while, mapped; a KV pool worth having; two processes.
  const int64_t needed = 2 * model_bytes + (512 << 20);
  const std::string what =
      fmt::format("memory: {} MiB available, about {} MiB needed", available >> 20, needed >> 20);
  if (available < needed) {
    findings.Problem(what, "close other programs, or use a smaller model or --set verifier.kv-bytes=128MiB");
  } else {
    findings.Fine(what);
  }
}

// The model's size in bytes, 0 if it is not there.
int64_t CheckModel(Findings& findings, const std::string& name) {
  const absl::StatusOr<std::string> path = ResolveModel(name);
  if (!path.ok()) {
    const NamedModel* known = FindNamedModel(name);
    if (known == nullptr) {
      findings.Problem(std::string(path.status().message()),
                       "give a file, a directory or a name with --model");
      return 0;
    }
    findings.Note(std::string(path.status().message()), "`tandem up` does so by itself");
    return known->bytes;
  }
  if (const NamedModel* known = FindNamedModel(name)) {
    const absl::StatusOr<std::string> sha256 = Sha256OfFile(*path);
    if (!sha256.ok() || *sha256 != known->sha256) {
      findings.Problem(fmt::format("model {}: the file is damaged", name),
                       fmt::format("delete {} and run: tandem pull {}", *path, name));
      return 0;
    }
  }
  const auto checkpoint = formats::Checkpoint::Open(*path);
  if (!checkpoint.ok()) {
    findings.Problem(fmt::format("model {}: {}", name, std::string(checkpoint.status().message())),
                     "use a model that the README lists as supported");
    return 0;
  }
  const int64_t bytes = (*checkpoint)->TensorBytes();
  findings.Fine(fmt::format("model {}: {} layers, context {}, {} MiB of weights", name,
                            (*checkpoint)->config().num_layers, (*checkpoint)->config().max_position,
                            bytes >> 20));
  return bytes;
}

void CheckPrograms(Findings& findings) {
  const absl::StatusOr<std::string> bin = ProgramDirectory();
  for (const char* program : {"tandem-verifier", "tandem-gateway"}) {
    if (bin.ok() && access((*bin + "/" + program).c_str(), X_OK) == 0) {
      findings.Fine(fmt::format("program: {}", program));
    } else {
      findings.Problem(fmt::format("program: {} is not beside this one", program),
                       "build or install all of them: make");
    }
  }
}

void CheckPort(Findings& findings, const char* use, uint16_t port) {
  if (IsPortFree({"127.0.0.1", port, ""})) {
    findings.Fine(fmt::format("port {} ({}) is free", port, use));
  } else {
    findings.Note(
        fmt::format("port {} ({}) is in use", port, use),
        fmt::format("an engine may be running already; otherwise choose another, e.g. tandem up --http "
                    "127.0.0.1:0 (see: ss -ltnp 'sport = :{}')",
                    port));
  }
}

void CheckDescriptors(Findings& findings) {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const std::string what = fmt::format("descriptors: at most {}", limit.rlim_max);
  if (limit.rlim_max != RLIM_INFINITY && static_cast<int64_t>(limit.rlim_max) < kMinFreeDescriptors) {
    findings.Problem(what, "raise the limit (ulimit -Hn 4096), each client needs one");
  } else {
    findings.Fine(what);
  }
}

}  // namespace

int DoctorMain(int argc, const char* const* argv) {
  std::string model = kDefaultModel, probe;
  Address address{"127.0.0.1", 8011, ""};
  OptionParser parser(
      kProgram,
      "Checks processor, backends, memory, model, programs and ports, and says what to do about each "
      "problem. With --probe it asks one process for its health instead: exit 0 if SERVING, for exec "
      "probes.");
  parser.AddString("model", &model, "the model to check: a file, a directory or a name");
  parser.AddChoice("probe", &probe, {"", "liveness", "readiness"},
                   "ask this of --address and print the answer");
  parser.AddAddress("address", &address, "gRPC address of the process to probe");
  if (const auto code = parser.Parse(argc, argv)) return *code;
  if (parser.check_config()) return 0;
  if (!probe.empty()) {
    const absl::StatusOr<std::string> state = ProbeHealth(address, probe, absl::Seconds(2));
    if (!state.ok()) return ReportStartFault(kProgram, state.status());
    fmt::print("{}\n", *state);
    return *state == "SERVING" ? 0 : 1;
  }
  Findings findings;
  CheckProcessor(findings);
  CheckBackends(findings);
  CheckMemory(findings, CheckModel(findings, model));
  CheckPrograms(findings);
  CheckDescriptors(findings);
  CheckPort(findings, "gateway, HTTP", 8000);
  CheckPort(findings, "gateway, gRPC", 8001);
  CheckPort(findings, "verifier", 8011);
  fmt::print("\n{}\n", findings.problems() == 0 ? "no problems found"
                                                : fmt::format("{} problem(s) found", findings.problems()));
  return findings.problems() == 0 ? 0 : 1;
}

}  // namespace tandem::cli
