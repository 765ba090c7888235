// Run streams over a real server and client, the engine replaced by a fake step loop.
#include "verifier/service/run_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "common/rpc/channel.h"
#include "common/rpc/message_socket.h"
#include "common/rpc/protocol_version.h"
#include "common/rpc/server.h"

namespace tandem::verifier {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FakeStepLoop : public StepLoop {
 public:
  StreamId OpenStream(ReportSink sink) override {
    absl::MutexLock lock(&mu_);
    sinks_[++last_stream_] = std::move(sink);
    return last_stream_;
  }
  void CloseStream(StreamId stream) override {
    {
      absl::MutexLock lock(&mu_);
      sinks_.erase(stream);
      sources_.erase(stream);
    }
    absl::MutexLock lock(&turn_mu_);  // waits for a call under way
  }
  void AddSource(StreamId stream, std::shared_ptr<MessageSource> source) override {
    absl::MutexLock lock(&mu_);
    if (sinks_.contains(stream)) sources_[stream] = std::move(source);
  }
  void OpenDrafter(int, DrafterStream, std::function<void(absl::Status)>) override {}
  void CloseDrafter(int) override {}
  void PostDrafts(int, speculation::DraftBatch) override {}
  void PostDrafterProtocolError(int) override {}
  void PostPlan(StreamId, Plan plan) override {
    absl::MutexLock lock(&mu_);
    plans_.push_back(std::move(plan));
  }
  EngineStats stats() const override {
    absl::MutexLock lock(&mu_);
    EngineStats stats;
    stats.running_sequences = running_;
    stats.blocks_free = 11;
    return stats;
  }
  absl::Duration stalled_for() const override { return absl::ZeroDuration(); }

  // As the loop's thread would.
  void Deliver(StreamId stream, Report report) {
    absl::MutexLock lock(&mu_);
    if (const auto sink = sinks_.find(stream); sink != sinks_.end()) sink->second(std::move(report));
  }
  // As the loop's thread would when the stream's descriptor is ready, at the latest after ten seconds. False:
  // the source has ended.
  bool Turn(StreamId stream) {
    absl::MutexLock turn(&turn_mu_);
    std::shared_ptr<MessageSource> source;
    {
      absl::MutexLock lock(&mu_);
      const auto found = sources_.find(stream);
      if (found == sources_.end()) return false;
      source = found->second;
    }
    const int events = source->sending() ? POLLIN | POLLOUT : POLLIN;
    pollfd watch{source->fd(), static_cast<short>(events), 0};
    EXPECT_EQ(poll(&watch, 1, 10'000), 1);
    return source->OnReady();
  }
  void SetRunning(int running) {
    absl::MutexLock lock(&mu_);
    running_ = running;
  }
  // The next plan posted; fails the test after ten seconds.
  Plan NextPlan() {
    absl::MutexLock lock(&mu_);
    const auto has_plan = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !plans_.empty(); };
    if (!mu_.AwaitWithTimeout(absl::Condition(&has_plan), absl::Seconds(10))) {
      ADD_FAILURE() << "no plan came";
      return {};
    }
    Plan plan = std::move(plans_.front());
    plans_.erase(plans_.begin());
    return plan;
  }
  bool AwaitStreams(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto reached = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return sinks_.size() == count; };
    return mu_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(10));
  }

 private:
  absl::Mutex turn_mu_ ABSL_ACQUIRED_BEFORE(mu_);
  mutable absl::Mutex mu_;
  std::map<StreamId, ReportSink> sinks_ ABSL_GUARDED_BY(mu_);
  std::map<StreamId, std::shared_ptr<MessageSource>> sources_ ABSL_GUARDED_BY(mu_);
  std::vector<Plan> plans_ ABSL_GUARDED_BY(mu_);
  StreamId last_stream_ ABSL_GUARDED_BY(mu_) = 0;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
};

// A gateway, as far as these tests need one.
class Peer {
 public:
  explicit Peer(const Address& address)
      : channel_(rpc::NewChannel(address)), stub_(v1::Verifier::NewStub(channel_)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    stream_ = stub_->Run(&context_);
  }
  ~Peer() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }

  bool SendHello(const std::function<void(v1::GatewayHello&)>& change = [](v1::GatewayHello&) {}) {
    v1::RunRequest request;
    v1::GatewayHello& hello = *request.mutable_hello();
    hello.mutable_protocol()->set_major(rpc::kProtocolMajor);
    hello.set_incarnation("0123456789abcdef");
    hello.set_sampling_version(rpc::kSamplingVersion);
    change(hello);
    return stream_->Write(request);
  }
  bool SendPlan(
      uint64_t number, const std::function<void(v1::Plan&)>& change = [](v1::Plan&) {}) {
    v1::RunRequest request;
    request.mutable_plan()->set_number(number);
    change(*request.mutable_plan());
    return stream_->Write(request);
  }
  bool Send(const v1::RunRequest& request) { return stream_->Write(request); }
  bool SendSocket(const rpc::SocketAddress& address) {
    v1::RunRequest request;
    request.mutable_socket()->set_name(address.name);
    request.mutable_socket()->set_nonce(address.nonce);
    return stream_->Write(request);
  }
  // Null if the verifier has not connected.
  std::unique_ptr<rpc::MessageSocket> OpenSocket() {
    const auto listener = rpc::SocketListener::Create();
    EXPECT_TRUE(listener.ok()) << listener.status();
    EXPECT_TRUE(SendSocket((*listener)->address()));
    const v1::RunResponse answer = Read();
    EXPECT_TRUE(answer.has_socket());
    if (!answer.socket().connected()) return nullptr;
    auto socket = (*listener)->Accept(kMaxRunMessageBytes);
    EXPECT_TRUE(socket.ok()) << socket.status();
    return *std::move(socket);
  }
  // Nothing is read meanwhile, so that the verifier cannot write for ever.
  v1::RunResponse Read() {
    v1::RunResponse response;
    if (!stream_->Read(&response)) ADD_FAILURE() << "the stream ended";
    return response;
  }
  // Reads to the end.
  grpc::Status Finish() {
    v1::RunResponse response;
    while (stream_->Read(&response)) {
    }
    finished_ = true;
    return stream_->Finish();
  }
  void HalfClose() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }
  const grpc::ClientContext& context() const { return context_; }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Verifier::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::RunRequest, v1::RunResponse>> stream_;
  bool finished_ = false;
};

class RunServiceTest : public ::testing::Test {
 protected:
  explicit RunServiceTest(absl::Duration heartbeat = absl::Minutes(1))
      : service_({.hello_timeout = absl::Milliseconds(500), .heartbeat = heartbeat}, metrics_, log_) {}
  void SetUp() override {
    auto listener = rpc::Listener::Bind({"127.0.0.1", 0, ""});
    ASSERT_TRUE(listener.ok()) << listener.status();
    rpc::ServerOptions options;
    options.max_receive_bytes = kMaxRunMessageBytes;
    auto server = rpc::RpcServer::Start(options, *std::move(listener), {&service_}, health_, {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
  }
  void Open() {
    RunIdentity identity;
    identity.incarnation = "fedcba9876543210";
    identity.model_fingerprint = "f00d";
    identity.vocab_size = 100;
    identity.max_model_len = 64;
    identity.max_sequences = 4;
    identity.max_step_tokens = 32;
    identity.local_socket = true;
    service_.Open(identity, loop_);
  }
  // A gateway past the hellos; stream ids of the fake count from 1.
  std::unique_ptr<Peer> Connected() {
    auto peer = std::make_unique<Peer>(server_->address());
    EXPECT_TRUE(peer->SendHello());
    EXPECT_TRUE(peer->Read().has_hello());
    return peer;
  }
  std::string Metric(const std::string& line) {
    const std::string text = metrics_.Scrape();
    const size_t at = text.find(line);
    return at == std::string::npos ? ""
                                   : text.substr(at + line.size(), text.find('\n', at) - at - line.size());
  }
  static Report TokensOf(uint64_t id, int32_t first_index, std::vector<int32_t> tokens) {
    Report report;
    SequenceReport sequence;
    sequence.id = id;
    sequence.epoch = 1;
    sequence.first_index = first_index;
    sequence.length = first_index + static_cast<int32_t>(tokens.size());
    sequence.new_tokens = std::move(tokens);
    report.sequences.push_back(std::move(sequence));
    return report;
  }
  static void Admit(v1::Plan& plan, uint64_t id) {
    v1::Admission& admission = *plan.add_admissions();
    admission.set_id(id);
    admission.set_epoch(1);
    admission.add_token_ids(3);
    admission.set_prompt_length(1);
    admission.set_top_p(1);
    admission.set_repetition_penalty(1);
    admission.set_max_tokens(8);
  }

  telemetry::Metrics metrics_{"tandem-test"};
  telemetry::Logger log_{{.service = "tandem-test", .level = "error"}};
  telemetry::Health health_{{"tandem.v1.Verifier"}};
  FakeStepLoop loop_;
  RunService service_;
  std::unique_ptr<rpc::RpcServer> server_;
};

TEST_F(RunServiceTest, CarriesPlansAndReports) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(peer->SendPlan(1, [](v1::Plan& plan) { Admit(plan, 5); }));
  const Plan plan = loop_.NextPlan();
  EXPECT_EQ(plan.number, 1u);
  EXPECT_EQ(plan.admissions.at(0).id, 5u);
  loop_.Deliver(1, TokensOf(5, 1, {42}));
  const v1::Report report = peer->Read().report();
  EXPECT_EQ(report.number(), 1u);
  EXPECT_THAT(report.sequences(0).token_ids(), ElementsAre(42));
  peer->HalfClose();
  EXPECT_TRUE(peer->Finish().ok());
  EXPECT_TRUE(loop_.AwaitStreams(0));
}

TEST_F(RunServiceTest, SaysHelloFirstAndUnasked) {
  Open();
  Peer peer(server_->address());
  const v1::RunResponse response = peer.Read();
  ASSERT_TRUE(response.has_hello());
  EXPECT_EQ(response.hello().incarnation(), "fedcba9876543210");
  EXPECT_EQ(response.hello().max_model_len(), 64u);
}

TEST_F(RunServiceTest, AMismatchEndsTheStreamAndIsCounted) {
  Open();
  Peer peer(server_->address());
  ASSERT_TRUE(peer.SendHello([](v1::GatewayHello& hello) { hello.set_model_fingerprint("other"); }));
  const grpc::Status status = peer.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "hello.model_fingerprint differs: verifier 'f00d', gateway 'other'");
  EXPECT_EQ(Metric("tandem_handshake_failures_total{field=\"model_fingerprint\",peer=\"gateway\"}"), " 1");
  EXPECT_TRUE(loop_.AwaitStreams(0));
}

TEST_F(RunServiceTest, ASilentGatewayIsNotWaitedForLong) {
  Open();
  Peer peer(server_->address());
  EXPECT_EQ(peer.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(service_.AwaitNoStreams(absl::Seconds(10)));
}

TEST_F(RunServiceTest, RepeatedPlansAreNoOps) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(peer->SendPlan(1));
  ASSERT_TRUE(peer->SendPlan(1));
  ASSERT_TRUE(peer->SendPlan(0));
  ASSERT_TRUE(peer->SendPlan(2));
  EXPECT_EQ(loop_.NextPlan().number, 1u);
  EXPECT_EQ(loop_.NextPlan().number, 2u);
  EXPECT_EQ(Metric("tandem_stale_messages_total{stream=\"run\"}"), " 2");
}

TEST_F(RunServiceTest, MessagesOutOfOrderEndTheStream) {
  Open();
  const std::vector<std::pair<std::string, std::function<void(Peer&)>>> cases{
      {"plan.number must be 1, got 2", [](Peer& peer) { peer.SendHello(), peer.SendPlan(2); }},
      {"a plan came before the hello", [](Peer& peer) { peer.SendPlan(1); }},
      {"a second hello came", [](Peer& peer) { peer.SendHello(), peer.SendHello(); }},
      {"a message holds none of hello, plan and socket", [](Peer& peer) { peer.SendHello(), peer.Send({}); }},
      {"plan admits sequence 1 twice",
       [](Peer& peer) {
         peer.SendHello();
         peer.SendPlan(1, [](v1::Plan& plan) { Admit(plan, 1), Admit(plan, 1); });
       }},
  };
  for (const auto& [message, act] : cases) {
    Peer peer(server_->address());
    act(peer);
    const grpc::Status status = peer.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << message;
    EXPECT_EQ(status.error_message(), message);
    EXPECT_TRUE(loop_.AwaitStreams(0));
  }
  EXPECT_EQ(Metric("tandem_protocol_errors_total{check=\"order\",peer=\"gateway\"}"), " 3");
  EXPECT_EQ(Metric("tandem_protocol_errors_total{check=\"plan_number\",peer=\"gateway\"}"), " 1");
  EXPECT_EQ(Metric("tandem_protocol_errors_total{check=\"plan\",peer=\"gateway\"}"), " 1");
}

TEST_F(RunServiceTest, ABadAdmissionFailsAloneAndTheStreamGoesOn) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(peer->SendPlan(1, [](v1::Plan& plan) {
    Admit(plan, 1);
    Admit(plan, 2);
    plan.mutable_admissions(0)->set_token_ids(0, 100);
  }));
  const Plan plan = loop_.NextPlan();
  ASSERT_EQ(plan.admissions.size(), 1u);
  EXPECT_EQ(plan.admissions[0].id, 2u);
  const v1::Report report = peer->Read().report();
  EXPECT_EQ(report.kv_free_blocks(), 11u);
  EXPECT_EQ(report.sequence_share(), 4u);
  EXPECT_EQ(report.prefill_token_share(), 32u);
  ASSERT_EQ(report.sequences_size(), 1);
  EXPECT_EQ(report.sequences(0).id(), 1u);
  EXPECT_EQ(report.sequences(0).end(), v1::SEQUENCE_END_FAILED);
  EXPECT_EQ(report.sequences(0).error_code(), static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
  EXPECT_EQ(report.sequences(0).error_message(), "token_ids[0] must be in 0..99, got 100");
  loop_.Deliver(1, TokensOf(2, 1, {7}));
  EXPECT_THAT(peer->Read().report().sequences(0).token_ids(), ElementsAre(7));
}

TEST_F(RunServiceTest, AnOversizedMessageEndsOnlyItsStream) {
  Open();
  auto other = Connected();
  {
    auto peer = Connected();
    peer->SendPlan(1, [](v1::Plan& plan) {
      Admit(plan, 1);
      plan.mutable_admissions(0)->set_cache_owner(std::string(kMaxRunMessageBytes + 1, 'x'));
    });
    EXPECT_FALSE(peer->Finish().ok());
  }
  EXPECT_TRUE(loop_.AwaitStreams(1));
  ASSERT_TRUE(other->SendPlan(1));
  EXPECT_EQ(loop_.NextPlan().number, 1u);
}

TEST_F(RunServiceTest, AGatewayThatVanishesIsClosedInTheEngine) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(peer->SendPlan(1));
  loop_.NextPlan();
  peer->Cancel();
  EXPECT_TRUE(loop_.AwaitStreams(0));
  EXPECT_TRUE(service_.AwaitNoStreams(absl::Seconds(10)));
  loop_.Deliver(1, TokensOf(1, 1, {7}));  // after the stream: dropped
}

TEST_F(RunServiceTest, AWriteThatFailsIsTheEnd) {
  Open();
  {
    Peer peer(server_->address());  // gone before it has read the hello
    ASSERT_TRUE(peer.SendHello());
    ASSERT_TRUE(loop_.AwaitStreams(1));
  }
  loop_.Deliver(1, TokensOf(1, 1, {7}));
  EXPECT_TRUE(loop_.AwaitStreams(0));
  EXPECT_TRUE(service_.AwaitNoStreams(absl::Seconds(10)));
}

TEST_F(RunServiceTest, ASlowReaderGetsFewerLargerReportsWithEveryToken) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(peer->SendPlan(1));
  loop_.NextPlan();
  // Far more than flow control lets through unread.
  const int32_t reports = 2000, tokens_each = 500;
  for (int32_t i = 0; i < reports; ++i) {
    loop_.Deliver(1, TokensOf(1, i * tokens_each, std::vector<int32_t>(tokens_each, i % 100)));
  }
  int32_t received = 0;
  uint64_t last_number = 0;
  while (received < reports * tokens_each) {
    const v1::Report report = peer->Read().report();
    ASSERT_EQ(report.number(), last_number + 1);
    last_number = report.number();
    ASSERT_EQ(report.sequences_size(), 1);
    ASSERT_EQ(report.sequences(0).first_index(), static_cast<uint32_t>(received));
    for (const int32_t token : report.sequences(0).token_ids()) {
      ASSERT_EQ(token, received / tokens_each % 100);
      ++received;
    }
  }
  EXPECT_EQ(received, reports * tokens_each);
  EXPECT_LT(last_number, static_cast<uint64_t>(reports));
}

TEST_F(RunServiceTest, BeforeItIsOpenStreamsAreToldToComeBack) {
  Peer peer(server_->address());
  const grpc::Status status = peer.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "verifier is starting");
  const auto& metadata = peer.context().GetServerTrailingMetadata();
  const auto pushback = metadata.find("grpc-retry-pushback-ms");
  ASSERT_NE(pushback, metadata.end());
  EXPECT_EQ(std::string(pushback->second.data(), pushback->second.size()), "1000");
}

v1::Plan NumberedPlan(uint64_t number) {
  v1::Plan plan;
  plan.set_number(number);
  return plan;
}
void SendPlan(rpc::MessageSocket& socket, const v1::Plan& plan) {
  EXPECT_TRUE(socket.Send(plan.SerializeAsString()).ok());
  EXPECT_FALSE(socket.sending());
}
// The next report, at the latest after ten seconds; fails when the verifier has gone.
absl::StatusOr<v1::Report> ReadReport(rpc::MessageSocket& socket) {
  while (true) {
    const auto bytes = socket.Receive();
    if (!bytes.ok()) return bytes.status();
    v1::Report report;
    if (*bytes) {
      EXPECT_TRUE(report.ParseFromArray((*bytes)->data(), static_cast<int>((*bytes)->size())));
      return report;
    }
    pollfd watch{socket.fd(), POLLIN, 0};
    if (poll(&watch, 1, 10'000) != 1) return absl::DeadlineExceededError("no report came");
  }
}

TEST_F(RunServiceTest, PlansAndReportsGoThroughASocket) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(loop_.AwaitStreams(1));  // the verifier's hello does not wait for ours
  EXPECT_EQ(Metric("tandem_run_message_streams{transport=\"grpc\"}"), " 1");
  const auto socket = peer->OpenSocket();
  ASSERT_NE(socket, nullptr);
  EXPECT_EQ(Metric("tandem_run_message_streams{transport=\"grpc\"}"), " 0");
  EXPECT_EQ(Metric("tandem_run_message_streams{transport=\"unix\"}"), " 1");
  for (uint64_t number = 1; number <= 20; ++number) {
    v1::Plan plan = NumberedPlan(number);
    Admit(plan, number);
    SendPlan(*socket, plan);
    ASSERT_TRUE(loop_.Turn(1));
    EXPECT_EQ(loop_.NextPlan().admissions.at(0).id, number);
    loop_.Deliver(1, TokensOf(number, 1, {42}));
    const auto report = ReadReport(*socket);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->number(), number);
    EXPECT_THAT(report->sequences(0).token_ids(), ElementsAre(42));
  }
  // A bad admission and a repeat are what they are in the stream.
  v1::Plan plan = NumberedPlan(21);
  Admit(plan, 21);
  plan.mutable_admissions(0)->set_token_ids(0, 100);
  SendPlan(*socket, plan);
  ASSERT_TRUE(loop_.Turn(1));
  EXPECT_EQ(ReadReport(*socket)->sequences(0).end(), v1::SEQUENCE_END_FAILED);
  SendPlan(*socket, plan);
  ASSERT_TRUE(loop_.Turn(1));
  EXPECT_EQ(Metric("tandem_stale_messages_total{stream=\"run\"}"), " 1");
  // What the engine says last comes before the end.
  loop_.Deliver(1, TokensOf(1, 2, {7}));
  peer->HalfClose();
  EXPECT_TRUE(peer->Finish().ok());
  EXPECT_TRUE(loop_.AwaitStreams(0));
  EXPECT_TRUE(ReadReport(*socket).ok());
  EXPECT_TRUE(service_.AwaitNoStreams(absl::Seconds(10)));
  EXPECT_EQ(ReadReport(*socket).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Metric("tandem_run_message_streams{transport=\"unix\"}"), " 0");
}

TEST_F(RunServiceTest, ASocketThatCannotBeReachedLeavesPlansInTheStream) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(peer->SendSocket({"tandem-" + std::string(32, '0'), std::string(16, 'n')}));
  const v1::RunResponse answer = peer->Read();
  ASSERT_TRUE(answer.has_socket());
  EXPECT_FALSE(answer.socket().connected());
  ASSERT_TRUE(peer->SendPlan(1));
  EXPECT_EQ(loop_.NextPlan().number, 1u);
  loop_.Deliver(1, TokensOf(5, 1, {42}));
  EXPECT_EQ(peer->Read().report().number(), 1u);
  EXPECT_EQ(Metric("tandem_run_message_streams{transport=\"grpc\"}"), " 1");
}

TEST_F(RunServiceTest, ASlowReaderOfASocketGetsFewerLargerReportsWithEveryToken) {
  Open();
  auto peer = Connected();
  const auto socket = peer->OpenSocket();
  ASSERT_NE(socket, nullptr);
  const int32_t reports = 2000, tokens_each = 500;
  for (int32_t i = 0; i < reports; ++i) {
    loop_.Deliver(1, TokensOf(1, i * tokens_each, std::vector<int32_t>(tokens_each, i % 100)));
  }
  std::atomic<bool> over{false};
  std::thread loop([&] {
    while (!over && loop_.Turn(1)) {
    }
  });
  int32_t received = 0;
  uint64_t last_number = 0;
  while (received < reports * tokens_each) {
    const auto report = ReadReport(*socket);
    ASSERT_TRUE(report.ok()) << report.status();
    ASSERT_EQ(report->number(), ++last_number);
    ASSERT_EQ(report->sequences(0).first_index(), static_cast<uint32_t>(received));
    received += report->sequences(0).token_ids_size();
  }
  EXPECT_EQ(received, reports * tokens_each);
  EXPECT_LT(last_number, static_cast<uint64_t>(reports));
  over = true;
  SendPlan(*socket, NumberedPlan(1));  // wakes it
  loop.join();
}

TEST_F(RunServiceTest, WhatIsWrongOnASocketEndsItsStreamAlone) {
  Open();
  auto other = Connected();
  using rpc::MessageSocket;
  struct Case {
    std::string check, message;
    std::function<void(Peer&, MessageSocket&)> act;
  };
  const auto plan = [](uint64_t number, const std::function<void(v1::Plan&)>& change) {
    return [=](Peer&, MessageSocket& socket) {
      v1::Plan message = NumberedPlan(number);
      change(message);
      SendPlan(socket, message);
    };
  };
  const std::vector<Case> cases{
      {"plan", "no Plan", [](Peer&, MessageSocket& s) { ASSERT_TRUE(s.Send("\xff\xff garbage").ok()); }},
      {"plan", "at most",
       [](Peer&, MessageSocket& s) { ASSERT_EQ(write(s.fd(), "\xff\xff\xff\xff", 4), 4); }},
      {"plan_number", "plan.number must be 1, got 2", plan(2, [](v1::Plan&) {})},
      {"plan", "twice", plan(1, [](v1::Plan& p) { Admit(p, 1), Admit(p, 1); })},
      {"order", "not by the socket", [](Peer& peer, MessageSocket&) { peer.SendPlan(1); }},
      {"order", "too late",
       [](Peer& peer, MessageSocket&) {
         peer.SendSocket({"tandem-" + std::string(32, '0'), "0123456789abcdef"});
       }},
      {"", "the peer has closed", [](Peer&, MessageSocket& s) { shutdown(s.fd(), SHUT_RDWR); }},
  };
  StreamId stream = 1;
  std::map<std::string, int> errors;
  for (const Case& c : cases) {
    auto peer = Connected();
    const auto socket = peer->OpenSocket();
    ASSERT_NE(socket, nullptr);
    c.act(*peer, *socket);
    ++stream;
    if (c.check != "order") {
      EXPECT_FALSE(loop_.Turn(stream)) << c.message;
    }
    EXPECT_THAT(peer->Finish().error_message(), HasSubstr(c.message));
    EXPECT_TRUE(loop_.AwaitStreams(1));
    if (!c.check.empty()) {
      EXPECT_EQ(Metric("tandem_protocol_errors_total{check=\"" + c.check + "\",peer=\"gateway\"}"),
                " " + std::to_string(++errors[c.check]))
          << c.message;
    }
  }
  ASSERT_TRUE(other->SendPlan(1));
  EXPECT_EQ(loop_.NextPlan().number, 1u);
}

TEST_F(RunServiceTest, ASocketThatIsNoneOrWasNotAskedForEndsTheStream) {
  Open();
  const std::string name = "tandem-" + std::string(32, '0'), nonce(16, 'n');
  const std::vector<std::pair<std::string, std::function<void(Peer&)>>> cases{
      {"socket must be",
       [&](Peer& peer) {
         peer.SendHello(), peer.SendSocket({"../../run/other", nonce});
       }},
      {"socket must be",
       [&](Peer& peer) {
         peer.SendHello(), peer.SendSocket({name, "short"});
       }},
      {"too late",
       [&](Peer& peer) {
         peer.SendSocket({name, nonce});
       }},
      {"too late",
       [&](Peer& peer) {
         peer.SendHello(), peer.SendPlan(1), peer.SendSocket({name, nonce});
       }},
  };
  for (const auto& [message, act] : cases) {
    Peer peer(server_->address());
    act(peer);
    const grpc::Status status = peer.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(message));
  }
}

class RunHeartbeatTest : public RunServiceTest {
 protected:
  RunHeartbeatTest() : RunServiceTest(absl::Milliseconds(20)) {}
};

TEST_F(RunHeartbeatTest, AStreamWithoutNewsGetsTheNumbersAnyway) {
  Open();
  auto peer = Connected();
  const v1::Report first = peer->Read().report();
  EXPECT_EQ(first.number(), 1u);
  EXPECT_EQ(first.kv_free_blocks(), 11u);
  EXPECT_EQ(first.sequence_share(), 4u);
  EXPECT_EQ(peer->Read().report().number(), 2u);
}

TEST_F(RunHeartbeatTest, BySocketItGetsThemWithoutTheLoop) {
  Open();
  auto peer = Connected();
  const auto listener = rpc::SocketListener::Create();
  ASSERT_TRUE(listener.ok());
  ASSERT_TRUE(peer->SendSocket((*listener)->address()));
  uint64_t number = 0;
  v1::RunResponse response = peer->Read();
  for (; response.has_report(); response = peer->Read()) EXPECT_EQ(response.report().number(), ++number);
  ASSERT_TRUE(response.socket().connected());
  const auto socket = (*listener)->Accept();
  ASSERT_TRUE(socket.ok());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ReadReport(**socket)->number(), ++number);
}

TEST_F(RunServiceTest, DrainTellsRefusesAndWaitsForWhatRuns) {
  Open();
  auto peer = Connected();
  ASSERT_TRUE(peer->SendPlan(1, [](v1::Plan& plan) { Admit(plan, 1); }));
  loop_.NextPlan();
  loop_.SetRunning(1);
  std::thread drain([&] { service_.Drain(absl::Seconds(20)); });
  const v1::RunResponse notice = peer->Read();
  EXPECT_EQ(notice.draining().drain_ms(), 20000u);

  Peer late(server_->address());
  const grpc::Status refused = late.Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(refused.error_message(), "verifier is draining");

  // Admitted by a gateway that had not heard: given back.
  ASSERT_TRUE(peer->SendPlan(2, [](v1::Plan& plan) { Admit(plan, 2); }));
  EXPECT_TRUE(loop_.NextPlan().admissions.empty());
  const v1::Report given_back = peer->Read().report();
  EXPECT_EQ(given_back.sequences(0).id(), 2u);
  EXPECT_EQ(given_back.sequences(0).end(), v1::SEQUENCE_END_PREEMPTED);

  loop_.Deliver(1, TokensOf(1, 1, {7}));
  loop_.SetRunning(0);
  EXPECT_THAT(peer->Read().report().sequences(0).token_ids(), ElementsAre(7));
  EXPECT_EQ(peer->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  drain.join();
  EXPECT_TRUE(loop_.AwaitStreams(0));
}

TEST_F(RunServiceTest, DrainEndsWhatIsStillRunningWhenTheTimeIsOver) {
  Open();
  auto peer = Connected();
  loop_.SetRunning(1);
  service_.Drain(absl::Milliseconds(50));
  EXPECT_EQ(peer->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(loop_.AwaitStreams(0));
}

TEST_F(RunServiceTest, AGatewayThatDoesNotReadCannotHoldUpTheEnd) {
  Open();
  auto peer = Connected();
  for (int32_t i = 0; i < 2000; ++i) loop_.Deliver(1, TokensOf(1, i * 500, std::vector<int32_t>(500, 1)));
  service_.Drain(absl::ZeroDuration());
  EXPECT_TRUE(loop_.AwaitStreams(0));
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_EQ(service_.num_streams(), 0);
}

TEST_F(RunServiceTest, TheServersEndClosesStreamsInTheEngine) {
  Open();
  auto peer = Connected();
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_TRUE(loop_.AwaitStreams(0));
  EXPECT_FALSE(peer->Finish().ok());
}

}  // namespace
}  // namespace tandem::verifier
