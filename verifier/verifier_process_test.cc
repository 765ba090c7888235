// The real binary, as an operator and a gateway meet it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/client_unary_call.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/option_values.h"
#include "common/formats/test_files.h"
#include "common/rpc/channel.h"
#include "common/rpc/protocol_version.h"
#include "nlohmann/json.hpp"
#include "tandem/v1/run.grpc.pb.h"
#include "tests/support/golden.h"
#include "verifier/scheduling/decision_trace.h"

extern char** environ;

namespace tandem::verifier {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::filesystem::path TrainedPair() { return tandem::testing::GoldenDir() / "drafters/trained_pair"; }

// A child process with its outputs captured; killed at the end of its scope.
class Process {
 public:
  explicit Process(std::vector<std::string> args) {
    int out[2], err[2];
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(err, O_CLOEXEC), 0);
    args.insert(args.begin(), TANDEM_VERIFIER);
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(out[1], 1);
      dup2(err[1], 2);
      execve(argv[0], argv.data(), environ);
      _exit(127);
    }
    close(out[1]);
    close(err[1]);
    out_ = out[0];
    err_ = err[0];
  }
  ~Process() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(out_);
    close(err_);
  }

  // The first line of stdout; empty if it ends before.
  std::string FirstLine() const {
    std::string line;
    for (char c; read(out_, &c, 1) == 1 && c != '\n';) line.push_back(c);
    return line;
  }
  void Signal(int signal) const { kill(pid_, signal); }
  // The wait status, after at most `patience`.
  std::optional<int> Wait(absl::Duration patience = absl::Seconds(60)) {
    const int pid_fd = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
    pollfd ended{pid_fd, POLLIN, 0};
    const bool in_time = poll(&ended, 1, static_cast<int>(absl::ToInt64Milliseconds(patience))) == 1;
    close(pid_fd);
    if (!in_time) return std::nullopt;
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return status;
  }
  // Everything on stderr; after the end of the process.
  std::string Errors() const {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(err_, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<size_t>(n));
    return text;
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1, err_ = -1;
};

// The words after "name=" in the line that the process prints.
Address AddressIn(const std::string& line, const std::string& name) {
  const size_t begin = line.find(" " + name + "=");
  if (begin == std::string::npos) {
    ADD_FAILURE() << "no " << name << " in '" << line << "'";
    return {};
  }
  const size_t value = begin + name.size() + 2;
  const auto address = ParseAddress(line.substr(value, line.find(' ', value) - value));
  EXPECT_TRUE(address.ok()) << line;
  return address.ok() ? *address : Address{};
}

std::vector<std::string> ServeArgs(const std::string& listen) {
  return {"--model",       (TrainedPair() / "target").string(),
          "--listen",      listen,
          "--metrics",     "127.0.0.1:0",
          "--activations", "f32",
          "--drain-delay", "0s",
          "--threads",     "2",
          "--kv-bytes",    "16MiB"};
}

// grpc.health.v1's messages, which our protos do not hold: {1: service name} and {1: state}.
grpc::ByteBuffer HealthRequest(const std::string& service) {
  const std::string bytes =
      service.empty() ? "" : "\x0a" + std::string(1, static_cast<char>(service.size())) + service;
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}
int StateIn(grpc::ByteBuffer& response) {
  grpc::Slice answer;
  return response.DumpToSingleSlice(&answer).ok() && answer.size() >= 2 ? answer.begin()[1] : 0;
}

// Of one service name: 1 = SERVING, 2 = NOT_SERVING, 0 = the call failed.
int CheckHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(2));
  const grpc::ByteBuffer request = HealthRequest(service);
  grpc::ByteBuffer response;
  const grpc::Status status = grpc::internal::BlockingUnaryCall(
      channel.get(),
      grpc::internal::RpcMethod("/grpc.health.v1.Health/Check", grpc::internal::RpcMethod::NORMAL_RPC),
      &context, request, &response);
  return status.ok() ? StateIn(response) : 0;
}

// Whether within a minute the service's state is `wanted`, by grpc.health.v1's Watch.
bool AwaitHealth(const std::shared_ptr<grpc::Channel>& channel, const std::string& service, int wanted) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  const grpc::ByteBuffer request = HealthRequest(service);
  const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> states(
      grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(
          channel.get(),
          grpc::internal::RpcMethod("/grpc.health.v1.Health/Watch",
                                    grpc::internal::RpcMethod::SERVER_STREAMING),
          &context, request));
  bool reached = false;
  for (grpc::ByteBuffer state; !reached && states->Read(&state);) reached = StateIn(state) == wanted;
  context.TryCancel();
  states->Finish();
  return reached;
}

bool AwaitReady(const std::shared_ptr<grpc::Channel>& channel) {
  return AwaitHealth(channel, "readiness", 1);
}

// One gateway's stream past the hellos.
class Gateway {
 public:
  explicit Gateway(const std::shared_ptr<grpc::Channel>& channel) : stub_(v1::Verifier::NewStub(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream_ = stub_->Run(&context_);
    v1::RunRequest request;
    v1::GatewayHello& hello = *request.mutable_hello();
    hello.mutable_protocol()->set_major(rpc::kProtocolMajor);
    hello.set_incarnation("0123456789abcdef");
    hello.set_sampling_version(rpc::kSamplingVersion);
    EXPECT_TRUE(stream_->Write(request));
    v1::RunResponse response;
    EXPECT_TRUE(stream_->Read(&response));
    hello_ = response.hello();
  }
  ~Gateway() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  const v1::VerifierHello& hello() const { return hello_; }

  // Greedy output of all prompts at once; empty where a sequence did not end well.
  std::vector<std::vector<int32_t>> Generate(const std::vector<std::vector<int32_t>>& prompts,
                                             uint32_t max_tokens) {
    v1::RunRequest request;
    request.mutable_plan()->set_number(++plans_);
    for (size_t i = 0; i < prompts.size(); ++i) {
      v1::Admission& admission = *request.mutable_plan()->add_admissions();
      admission.set_id(i + 1);
      admission.set_epoch(1);
      admission.mutable_token_ids()->Add(prompts[i].begin(), prompts[i].end());
      admission.set_prompt_length(static_cast<uint32_t>(prompts[i].size()));
      admission.set_top_p(1);
      admission.set_repetition_penalty(1);
      admission.set_max_tokens(max_tokens);
      admission.mutable_stop_token_ids()->Add(hello_.eos_token_ids().begin(), hello_.eos_token_ids().end());
    }
    EXPECT_TRUE(stream_->Write(request));
    std::vector<std::vector<int32_t>> outputs(prompts.size());
    size_t running = prompts.size();
    for (v1::RunResponse response; running > 0;) {
      if (!stream_->Read(&response)) {
        ADD_FAILURE() << "the stream ended";
        break;
      }
      for (const v1::SequenceReport& report : response.report().sequences()) {
        std::vector<int32_t>& output = outputs.at(report.id() - 1);
        EXPECT_EQ(report.first_index(), prompts[report.id() - 1].size() + output.size());
        output.insert(output.end(), report.token_ids().begin(), report.token_ids().end());
        if (report.end() == v1::SEQUENCE_END_UNSPECIFIED) continue;
        EXPECT_TRUE(report.end() == v1::SEQUENCE_END_STOP || report.end() == v1::SEQUENCE_END_LENGTH)
            << report.ShortDebugString();
        --running;
      }
    }
    return outputs;
  }
  grpc::Status ReadToTheEnd(bool* draining) {
    v1::RunResponse response;
    while (stream_->Read(&response)) *draining |= response.has_draining();
    finished_ = true;
    return stream_->Finish();
  }

 private:
  std::unique_ptr<v1::Verifier::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::RunRequest, v1::RunResponse>> stream_;
  v1::VerifierHello hello_;
  uint64_t plans_ = 0;
  bool finished_ = false;
};

struct Examples {
  std::vector<std::vector<int32_t>> prompts, outputs;
};
Examples GoldenExamples() {
  Examples examples;
  for (const json& example : json::parse(tandem::testing::ReadFile(TrainedPair() / "greedy_examples.json"))) {
    examples.prompts.push_back(example["prompt_ids"]);
    examples.outputs.push_back(example["greedy_ids"]);
  }
  return examples;
}
uint32_t Longest(const std::vector<std::vector<int32_t>>& outputs) {
  size_t longest = 0;
  for (const auto& output : outputs) longest = std::max(longest, output.size());
  return static_cast<uint32_t>(longest);
}

TEST(VerifierProcess, GivesTheGoldenTokensDrainsAndExitsZero) {
  const Examples examples = GoldenExamples();
  ASSERT_FALSE(examples.prompts.empty());
  Process process(ServeArgs("127.0.0.1:0"));
  const std::string line = process.FirstLine();
  EXPECT_THAT(line, StartsWith("listening grpc=127.0.0.1:"));
  const auto channel = rpc::NewChannel(AddressIn(line, "grpc"));
  ASSERT_TRUE(AwaitReady(channel));
  EXPECT_EQ(CheckHealth(channel, "tandem.v1.Verifier"), 1);
  Gateway gateway(channel);
  EXPECT_EQ(gateway.Generate(examples.prompts, Longest(examples.outputs)), examples.outputs);

  process.Signal(SIGTERM);
  bool draining = false;
  EXPECT_EQ(gateway.ReadToTheEnd(&draining).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(draining);
  EXPECT_EQ(process.Wait(), 0) << process.Errors();
}

TEST(VerifierProcess, ComesBackOnTheSameAddressAfterAKill) {
  const Examples examples = GoldenExamples();
  ASSERT_FALSE(examples.prompts.empty());
  const std::string socket = "unix:" + ::testing::TempDir() + "/verifier" + std::to_string(getpid());
  std::string tcp = "127.0.0.1:0";
  std::string fingerprint, incarnation;
  for (std::string listen : {tcp, socket}) {
    for (int start = 0; start < 2; ++start) {
      Process process(ServeArgs(listen));
      listen = AddressIn(process.FirstLine(), "grpc").ToString();  // now with its port
      const auto channel = rpc::NewChannel(*ParseAddress(listen));
      ASSERT_TRUE(AwaitReady(channel)) << listen;
      Gateway gateway(channel);
      EXPECT_NE(gateway.hello().incarnation(), incarnation);
      incarnation = gateway.hello().incarnation();
      if (!fingerprint.empty()) {
        EXPECT_EQ(gateway.hello().model_fingerprint(), fingerprint);
      }
      fingerprint = gateway.hello().model_fingerprint();
      EXPECT_EQ(gateway.Generate({examples.prompts[0]}, Longest(examples.outputs)),
                std::vector<std::vector<int32_t>>{examples.outputs[0]});
      process.Signal(SIGKILL);
      ASSERT_TRUE(process.Wait().has_value());
    }
  }
}

TEST(VerifierProcess, ChecksItsConfigurationWithoutServing) {
  Process good({"--model", (TrainedPair() / "target").string(), "--check-config"});
  EXPECT_EQ(good.Wait(), 0);
  EXPECT_EQ(good.Errors(), "");
}

TEST(VerifierProcess, FaultsAreOneLineAndTheirExitCode) {
  const auto exit_code = [](Process& process) {
    const std::optional<int> status = process.Wait();
    return status && WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
  };
  const auto one_line = [](const std::string& text) {
    return !text.empty() && std::count(text.begin(), text.end(), '\n') == 1;
  };
  const std::string model = (TrainedPair() / "target").string();
  struct Case {
    std::vector<std::string> args;
    int code;
    std::string message;
  };
  for (const Case& c : std::vector<Case>{
           {{}, 2, "--model is required"},
           {{"--model", model, "--threads", "-1"}, 2, "--threads"},
           {{"--model", model, "--max-num-seqs", "9", "--max-step-tokens", "8"}, 2, "--max-num-seqs"},
           {{"--model", model, "--device", "cuda:x"}, 2, "--device"},
           {{"--model", model, "--device", "cuda:255", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"},
            1,
            "no CUDA device"},
           {{"--model", "/no/such/model"}, 1, "/no/such/model"},
           {{"--model", model, "--listen", "192.0.2.1:1", "--insecure", "--metrics", "127.0.0.1:0"},
            1,
            "192.0.2.1:1"},
           {{"--model", model, "--listen", "0.0.0.0:0", "--metrics", "127.0.0.1:0"}, 1, "--insecure"},
           {{"--model", model, "--listen", "127.0.0.1:0", "--metrics", "192.0.2.1:1"}, 1, "192.0.2.1:1"},
           {{"--model", model, "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--kv-bytes", "1"},
            1,
            "kv-bytes"},
       }) {
    Process process(c.args);
    EXPECT_EQ(exit_code(process), c.code) << c.message;
    const std::string errors = process.Errors();
    EXPECT_TRUE(one_line(errors)) << errors;
    EXPECT_THAT(errors, HasSubstr("tandem-verifier: "));
    EXPECT_THAT(errors, HasSubstr(c.message));
  }
}

TEST(VerifierProcess, ASecondSignalEndsItAtOnce) {
  std::vector<std::string> args = ServeArgs("127.0.0.1:0");
  for (std::string& arg : args) {
    if (arg == "0s") arg = "600s";  // the drain delay
  }
  Process process(args);
  const auto channel = rpc::NewChannel(AddressIn(process.FirstLine(), "grpc"));
  ASSERT_TRUE(AwaitReady(channel));
  process.Signal(SIGTERM);
  EXPECT_TRUE(AwaitHealth(channel, "readiness", 2));
  EXPECT_EQ(CheckHealth(channel, "liveness"), 1);
  Gateway gateway(channel);  // still accepted during the delay
  process.Signal(SIGTERM);
  const std::optional<int> status = process.Wait();
  ASSERT_TRUE(status.has_value());
  ASSERT_TRUE(WIFSIGNALED(*status));
  EXPECT_EQ(WTERMSIG(*status), SIGTERM);
}

TEST(VerifierProcess, TraceHoldsAHeaderAndTheStepsOfTheWarmUp) {
  const formats::TestDirectory directory;
  const std::string path = directory.path() / "trace";
  std::vector<std::string> args = ServeArgs("127.0.0.1:0");
  args.insert(args.end(), {"--trace", path, "--policy", "fixed:3"});
  Process verifier(args);
  ASSERT_TRUE(AwaitReady(rpc::NewChannel(AddressIn(verifier.FirstLine(), "grpc"))));
  verifier.Signal(SIGTERM);
  ASSERT_EQ(verifier.Wait(), 0);
  auto trace = TraceReader::Open(path);
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ((*trace)->header().policy.kind, PolicyKind::kOff);  // there is no drafter
  StepDecision step;
  const absl::StatusOr<bool> any = (*trace)->Next(step);
  ASSERT_TRUE(any.ok()) << any.status();
  EXPECT_TRUE(*any);
}

TEST(VerifierProcess, ATraceThatCannotBeWrittenEndsTheStart) {
  std::vector<std::string> args = ServeArgs("127.0.0.1:0");
  args.insert(args.end(), {"--trace", "/nowhere/trace"});
  Process verifier(args);
  const std::optional<int> status = verifier.Wait();
  ASSERT_TRUE(status.has_value());
  EXPECT_NE(*status, 0);
  EXPECT_THAT(verifier.Errors(), HasSubstr("/nowhere/trace"));
}

}  // namespace
}  // namespace tandem::verifier
