#include "drafter/service/speculate_service.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/protocol_version.h"
#include "common/rpc/server.h"
#include "common/speculation/projection_bytes.h"
#include "common/speculation/row_ring.h"
#include "common/speculation/wire/speculate_messages.h"
#include "common/telemetry/health.h"
#include "drafter/engine/fake_draft_model.h"
#include "drafter/engine/fake_verifier.h"

namespace tandem::drafter {
namespace {

using speculation::RowType;
using testing::FakeDraftModel;
using testing::FakeVerifier;
using ::testing::HasSubstr;

speculation::VerifierHello FittingHello() {
  speculation::VerifierHello hello;
  hello.protocol_major = rpc::kProtocolMajor;
  hello.incarnation = "0123456789abcdef";
  hello.sampling_version = rpc::kSamplingVersion;
  hello.vocab_size = FakeDraftModel::kVocab;
  hello.hidden_size = 4;
  hello.num_layers = 2;
  hello.max_model_len = 512;
  hello.row_type = RowType::kF32;
  const speculation::LocalMachine machine = speculation::ReadLocalMachine();
  hello.boot_id = machine.boot_id;
  hello.uid = machine.uid;
  return hello;
}

// A verifier, as far as these tests need one.
class Peer {
 public:
  explicit Peer(const Address& address)
      : channel_(rpc::NewChannel(address)), stub_(v1::Drafter::NewStub(channel_)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    stream_ = stub_->Speculate(&context_);
  }
  ~Peer() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }
  bool SendHello(const speculation::VerifierHello& hello = FittingHello()) {
    v1::SpeculateRequest request;
    speculation::FillHello(hello, *request.mutable_hello());
    return stream_->Write(request);
  }
  bool SendFeed(const speculation::Feed& feed) {
    v1::SpeculateRequest request;
    speculation::FillFeed(feed, *request.mutable_feed());
    return stream_->Write(request);
  }
  bool SendRing(const speculation::RingAddress& ring) {
    v1::SpeculateRequest request;
    speculation::FillRing(ring, *request.mutable_ring());
    return stream_->Write(request);
  }
  // Offers a socket; null if the drafter has not connected.
  std::unique_ptr<rpc::MessageSocket> OpenSocket() {
    const auto listener = rpc::SocketListener::Create();
    EXPECT_TRUE(listener.ok()) << listener.status();
    EXPECT_TRUE(SendSocket((*listener)->address()));
    if (!Read().socket().connected()) return nullptr;
    auto socket = (*listener)->Accept();
    EXPECT_TRUE(socket.ok()) << socket.status();
    return socket.ok() ? *std::move(socket) : nullptr;
  }
  bool SendSocket(const rpc::SocketAddress& address) {
    v1::SpeculateRequest request;
    speculation::FillSocket(address, *request.mutable_socket());
    return stream_->Write(request);
  }
  bool Send(const v1::SpeculateRequest& request) { return stream_->Write(request); }
  v1::SpeculateResponse Read() {
    v1::SpeculateResponse response;
    if (!stream_->Read(&response)) ADD_FAILURE() << "the stream ended";
    return response;
  }
  // Hello and projection; the drafter's hello.
  speculation::DrafterHello Open(const speculation::VerifierHello& hello = FittingHello()) {
    EXPECT_TRUE(SendHello(hello));
    const auto answer = speculation::ReadHello(Read().hello());
    EXPECT_TRUE(answer.ok()) << answer.status();
    speculation::ProjectionAssembler assembler(*answer);
    while (!assembler.complete()) {
      const v1::SpeculateResponse response = Read();
      if (!response.has_projection()) break;
      EXPECT_TRUE(
          assembler
              .Add(response.projection().offset(), std::as_bytes(std::span(response.projection().data())))
              .ok());
    }
    EXPECT_TRUE(assembler.Finish().ok());
    return *answer;
  }
  // Reads until a draft comes.
  v1::SequenceDraft ReadDraft() {
    for (int i = 0; i < 1000; ++i) {
      const v1::SpeculateResponse response = Read();
      if (!response.has_drafts()) break;
      if (response.drafts().drafts_size() > 0) return response.drafts().drafts(0);
    }
    ADD_FAILURE() << "no draft came";
    return {};
  }
  grpc::Status Finish() {
    v1::SpeculateResponse response;
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
  std::unique_ptr<v1::Drafter::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SpeculateRequest, v1::SpeculateResponse>> stream_;
  bool finished_ = false;
};

speculation::VerifierHello HelloWithSocket() {
  speculation::VerifierHello hello = FittingHello();
  hello.local_socket = true;
  return hello;
}

void Send(rpc::MessageSocket& socket, const speculation::Feed& feed) {
  v1::Feed message;
  speculation::FillFeed(feed, message);
  ASSERT_TRUE(socket.Send(message.SerializeAsString()).ok());
}

// The next batch, or what ended the socket.
absl::StatusOr<v1::DraftBatch> ReadBatch(rpc::MessageSocket& socket) {
  while (true) {
    ASSIGN_OR_RETURN(const auto bytes, socket.Receive());
    v1::DraftBatch batch;
    if (bytes) {
      EXPECT_TRUE(batch.ParseFromArray(bytes->data(), static_cast<int>(bytes->size())));
      return batch;
    }
    pollfd watch{socket.fd(), POLLIN, 0};
    if (poll(&watch, 1, 20'000) != 1) return absl::DeadlineExceededError("no batch came");
  }
}

class SpeculateServiceTest : public ::testing::Test {
 protected:
  explicit SpeculateServiceTest(int64_t max_waiting_bytes = int64_t{128} << 20)
      : engine_(*DraftEngine::Create({.max_sequences = 4, .row_window = 100}, model_)),
        loop_(DraftLoop::Start(*engine_, Clock::Real())),
        service_({.hello_timeout = absl::Milliseconds(500), .max_waiting_bytes = max_waiting_bytes}, metrics_,
                 log_) {}
  void SetUp() override {
    auto listener = rpc::Listener::Bind({"127.0.0.1", 0, ""});
    ASSERT_TRUE(listener.ok()) << listener.status();
    rpc::ServerOptions options;
    options.max_receive_bytes = speculation::kMaxSpeculateMessageBytes;
    auto server = rpc::RpcServer::Start(options, *std::move(listener), {&service_}, health_, {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown(absl::ZeroDuration());
    loop_.reset();
  }
  void Open() {
    DrafterIdentity identity;
    identity.incarnation = NewIncarnation();
    identity.model = model_.info();
    identity.projection_hash = speculation::ProjectionHash(model_.info().projection);
    identity.row_window = engine_->options().row_window;
    identity.max_sequences = engine_->options().max_sequences;
    identity.max_context_rows = engine_->max_context_rows();
    identity.machine = speculation::ReadLocalMachine();
    service_.Open(identity, *loop_);
  }
  bool Await(const std::function<bool()>& condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (!condition() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
    return condition();
  }
  bool AwaitNoSequences() {
    return Await([&] { return loop_->stats().streams == 0 && loop_->stats().sequences == 0; });
  }
  std::string Metric(const std::string& line) {
    const std::string text = metrics_.Scrape();
    const size_t at = text.find(line);
    return at == std::string::npos ? ""
                                   : text.substr(at + line.size(), text.find('\n', at) - at - line.size());
  }

  telemetry::Metrics metrics_{"tandem-test"};
  telemetry::Logger log_{{.service = "tandem-test", .level = "error"}};
  telemetry::Health health_{{"tandem.v1.Drafter"}};
  FakeDraftModel model_;
  std::unique_ptr<DraftEngine> engine_;
  std::unique_ptr<DraftLoop> loop_;
  SpeculateService service_;
  std::unique_ptr<rpc::RpcServer> server_;
};

TEST_F(SpeculateServiceTest, CarriesFeedsAndDrafts) {
  Open();
  Peer peer(server_->address());
  const speculation::DrafterHello hello = peer.Open();
  EXPECT_EQ(hello.algorithm, "fake");
  EXPECT_EQ(hello.block_size, 5);
  EXPECT_EQ(hello.rows_granted, 100);
  EXPECT_EQ(hello.max_sequences, 4);
  EXPECT_EQ(hello.transport, speculation::RowTransport::kInline);
  FakeVerifier verifier;
  ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 0, 20, 1).Take()));
  const v1::SequenceDraft draft = peer.ReadDraft();
  EXPECT_EQ(draft.id(), 1u);
  EXPECT_EQ(draft.length(), 20u);
  EXPECT_EQ(draft.round(), 1u);
  EXPECT_EQ(draft.token_ids_size(), 5);
  ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 30, 32, 2).Take()));
  v1::SpeculateResponse response = peer.Read();
  while (response.drafts().out_of_sync_size() == 0) response = peer.Read();
  EXPECT_EQ(response.drafts().out_of_sync(0).have(), 19u);
  peer.HalfClose();
  EXPECT_TRUE(peer.Finish().ok());
  EXPECT_TRUE(AwaitNoSequences());
}

TEST_F(SpeculateServiceTest, RowsComeThroughARing) {
  Open();
  std::vector<int32_t> inline_tokens;
  for (const bool shared : {false, true}) {
    Peer peer(server_->address());
    speculation::VerifierHello verifier_hello = FittingHello();
    verifier_hello.shared_memory = shared;
    const speculation::DrafterHello hello = peer.Open(verifier_hello);
    FakeVerifier verifier;
    speculation::Feed feed = verifier.Feed(1, 0, 20, 1).Take();
    std::unique_ptr<speculation::RowRingWriter> ring;
    if (shared) {
      ASSERT_EQ(hello.transport, speculation::RowTransport::kSharedMemory);
      ring = *speculation::RowRingWriter::Create(100, 12);
      ASSERT_TRUE(peer.SendRing(ring->address()));
      const std::string nonce = peer.Read().ring().nonce();
      ASSERT_EQ(nonce.size(), speculation::kRingNonceBytes);
      EXPECT_EQ(std::memcmp(nonce.data(), ring->nonce().data(), nonce.size()), 0);
      ring->Unlink();
      for (int64_t n = 0; n < 19; ++n)
        ASSERT_TRUE(ring->Put(n, std::span(feed.rows).subspan(n * 12, 12)).ok());
      feed.rows.clear();
    }
    ASSERT_TRUE(peer.SendFeed(feed));
    const v1::SequenceDraft draft = peer.ReadDraft();
    const std::vector<int32_t> tokens(draft.token_ids().begin(), draft.token_ids().end());
    if (!shared) inline_tokens = tokens;
    EXPECT_EQ(tokens, inline_tokens);
  }
  EXPECT_EQ(inline_tokens.size(), 5u);
}

TEST_F(SpeculateServiceTest, ARingThatCannotBeOpenedMeansInline) {
  Open();
  Peer peer(server_->address());
  speculation::VerifierHello hello = FittingHello();
  hello.shared_memory = true;
  peer.Open(hello);
  ASSERT_TRUE(peer.SendRing({"/tandem-1-0123456789abcdef", 100, 12}));
  EXPECT_EQ(peer.Read().ring().nonce(), "");
  FakeVerifier verifier;
  ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 0, 20, 1).Take()));
  EXPECT_EQ(peer.ReadDraft().length(), 20u);
}

TEST_F(SpeculateServiceTest, FeedsAndDraftsGoThroughASocket) {
  Open();
  Peer peer(server_->address());
  EXPECT_TRUE(peer.Open(HelloWithSocket()).local_socket);
  const auto socket = peer.OpenSocket();
  ASSERT_NE(socket, nullptr);
  EXPECT_EQ(Metric("tandem_drafter_message_streams{transport=\"unix\"}"), " 1");
  FakeVerifier verifier;
  for (uint32_t round = 1; round <= 20; ++round) {
    const auto length = static_cast<int32_t>(10 + round);
    Send(*socket, verifier.Feed(1, round == 1 ? 0 : length - 2, length, round).Take());
    auto batch = ReadBatch(*socket);
    while (batch.ok() && batch->drafts_size() == 0) batch = ReadBatch(*socket);  // credit alone
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ(batch->drafts(0).length(), static_cast<uint32_t>(length));
  }
  peer.HalfClose();
  EXPECT_TRUE(peer.Finish().ok());
  EXPECT_TRUE(AwaitNoSequences());
  EXPECT_FALSE(ReadBatch(*socket).ok());  // closed by the drafter
  EXPECT_TRUE(Await([&] { return Metric("tandem_drafter_message_streams{transport=\"unix\"}") == " 0"; }));
}

TEST_F(SpeculateServiceTest, ASocketThatCannotBeReachedLeavesFeedsInTheStream) {
  Open();
  Peer peer(server_->address());
  peer.Open(HelloWithSocket());
  ASSERT_TRUE(peer.SendSocket({"tandem-" + std::string(32, '0'), std::string(16, 'n')}));
  const v1::SpeculateResponse answer = peer.Read();
  ASSERT_TRUE(answer.has_socket());
  EXPECT_FALSE(answer.socket().connected());
  FakeVerifier verifier;
  ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 0, 20, 1).Take()));
  EXPECT_EQ(peer.ReadDraft().length(), 20u);
}

TEST_F(SpeculateServiceTest, WhatIsWrongOnASocketEndsItsStreamAlone) {
  Open();
  Peer other(server_->address());
  other.Open(HelloWithSocket());
  const auto honest_socket = other.OpenSocket();
  ASSERT_NE(honest_socket, nullptr);
  using rpc::MessageSocket;
  struct Case {
    const char* check;  // empty: none is counted
    const char* message;
    std::function<void(Peer&, MessageSocket&)> act;
  };
  const auto changed_feed = [](auto change) {
    return [change](Peer&, MessageSocket& socket) {
      FakeVerifier verifier;
      speculation::Feed feed = verifier.Feed(1, 0, 5, 1).Take();
      change(feed);
      Send(socket, feed);
    };
  };
  const std::vector<Case> cases{
      {"feed", "no Feed", [](Peer&, MessageSocket& s) { ASSERT_TRUE(s.Send("\xff\xff garbage").ok()); }},
      {"feed", "a message must have at most",
       [](Peer&, MessageSocket& s) { ASSERT_EQ(write(s.fd(), "\xff\xff\xff\xff", 4), 4); }},
      {"feed", "token_ids[2] must be in 0..999, got 1000",
       changed_feed([](auto& feed) { feed.sequences[0].tokens[2] = 1000; })},
      {"feed", "feed.rows must have 48 bytes", changed_feed([](auto& feed) { feed.rows.pop_back(); })},
      {"feed_order", "feed.number must be 1, got 2", changed_feed([](auto& feed) { feed.number = 2; })},
      {"order", "not by the socket", [](Peer& peer, MessageSocket&) { peer.SendFeed({}); }},
      {"order", "too late",
       [](Peer& peer, MessageSocket&) {
         peer.SendSocket({"tandem-" + std::string(32, '0'), std::string(16, 'n')});
       }},
      {"", "the peer has closed", [](Peer&, MessageSocket& s) { shutdown(s.fd(), SHUT_RDWR); }},
  };
  std::map<std::string, int> counts;
  for (const Case& c : cases) {
    Peer peer(server_->address());
    peer.Open(HelloWithSocket());
    const auto socket = peer.OpenSocket();
    ASSERT_NE(socket, nullptr);
    c.act(peer, *socket);
    EXPECT_THAT(peer.Finish().error_message(), HasSubstr(c.message));
    if (*c.check == '\0') continue;
    EXPECT_EQ(
        Metric("tandem_protocol_errors_total{check=\"" + std::string(c.check) + "\",peer=\"verifier\"}"),
        " " + std::to_string(++counts[c.check]));
  }
  EXPECT_TRUE(Await([&] { return loop_->stats().streams == 1; }));
  FakeVerifier honest;
  Send(*honest_socket, honest.Feed(1, 0, 12, 1).Take());
  const auto batch = ReadBatch(*honest_socket);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->drafts(0).length(), 12u);
}

TEST_F(SpeculateServiceTest, AVerifierThatDoesNotReadItsSocketGetsMergedBatches) {
  Open();
  Peer peer(server_->address());
  peer.Open(HelloWithSocket());
  const auto socket = peer.OpenSocket();
  ASSERT_NE(socket, nullptr);
  FakeVerifier verifier;
  const int feeds = 20'000;
  for (int i = 1; i <= feeds; ++i) {
    const auto epoch = static_cast<uint32_t>(i);
    while (socket->sending()) {
      pollfd watch{socket->fd(), POLLOUT, 0};
      ASSERT_EQ(poll(&watch, 1, 20'000), 1);
      ASSERT_TRUE(socket->Flush().ok());
    }
    Send(*socket, verifier.Feed(1, 0, 1, 1, epoch).Feed(2, 0, 1, 1, epoch).Take());
  }
  uint64_t number = 0, feed_number = 0;
  while (feed_number < feeds) {
    ASSERT_TRUE(socket->Flush().ok());
    const auto batch = ReadBatch(*socket);
    ASSERT_TRUE(batch.ok()) << batch.status();
    ASSERT_EQ(batch->number(), ++number);
    ASSERT_GT(batch->feed_number(), feed_number);
    ASSERT_LE(batch->drafts_size(), 2);
    feed_number = batch->feed_number();
  }
  EXPECT_LT(number, static_cast<uint64_t>(feeds));
}

TEST_F(SpeculateServiceTest, NothingLocalIsChosenForAnotherMachineOrUser) {
  Open();
  for (const bool other_machine : {true, false}) {
    Peer peer(server_->address());
    speculation::VerifierHello hello = FittingHello();
    hello.shared_memory = hello.local_socket = true;
    if (other_machine) {
      hello.boot_id += "x";
    } else {
      ++hello.uid;
    }
    const speculation::DrafterHello answer = peer.Open(hello);
    EXPECT_EQ(answer.transport, speculation::RowTransport::kInline);
    EXPECT_FALSE(answer.local_socket);
  }
}

TEST_F(SpeculateServiceTest, AMismatchEndsTheStreamAndIsCounted) {
  Open();
  Peer peer(server_->address());
  speculation::VerifierHello hello = FittingHello();
  hello.vocab_size = 999;
  ASSERT_TRUE(peer.SendHello(hello));
  const grpc::Status status = peer.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "hello.vocab_size differs: verifier 999, drafter 1000");
  EXPECT_EQ(Metric("tandem_handshake_failures_total{field=\"vocab_size\",peer=\"verifier\"}"), " 1");
}

TEST_F(SpeculateServiceTest, WhatBreaksTheProtocolEndsItsStreamAlone) {
  Open();
  Peer other(server_->address());
  other.Open();
  FakeVerifier honest;
  ASSERT_TRUE(other.SendFeed(honest.Feed(1, 0, 9, 1).Take()));
  other.ReadDraft();
  const auto changed_feed = [](auto change) {
    return [change](Peer& peer) {
      FakeVerifier verifier;
      speculation::Feed feed = verifier.Feed(1, 0, 5, 1).Take();
      change(feed);
      peer.Open();
      peer.SendFeed(feed);
    };
  };
  struct Case {
    const char* check;
    const char* message;
    std::function<void(Peer&)> act;
  };
  const std::vector<Case> cases{
      {"order", "a feed came before the hello", [](Peer& peer) { peer.SendFeed({}); }},
      {"order", "a second hello came", [](Peer& peer) { peer.Open(), peer.SendHello(); }},
      {"order", "holds none of", [](Peer& peer) { peer.Open(), peer.Send({}); }},
      {"order", "a ring was offered that was not asked for",
       [](Peer& peer) {
         peer.Open(), peer.SendRing({"/tandem-1-0123456789abcdef", 100, 12});
       }},
      {"ring", "the ring must have at least 100 slots of 12 bytes",
       [](Peer& peer) {
         speculation::VerifierHello hello = FittingHello();
         hello.shared_memory = true;
         peer.Open(hello);
         peer.SendRing({"/tandem-1-0123456789abcdef", 99, 12});
       }},
      {"hello", "hello.vocab_size must be",
       [](Peer& peer) {
         speculation::VerifierHello hello = FittingHello();
         hello.vocab_size = 0;
         peer.SendHello(hello);
       }},
      {"feed", "token_ids[2] must be in 0..999, got 1000",
       changed_feed([](auto& feed) { feed.sequences[0].tokens[2] = 1000; })},
      {"feed", "feed.rows must have 48 bytes", changed_feed([](auto& feed) { feed.rows.pop_back(); })},
      {"feed", "token_ids' count", changed_feed([](auto& feed) { feed.sequences[0].tokens.pop_back(); })},
      {"feed_order", "feed.number must be 1, got 2", changed_feed([](auto& feed) { feed.number = 2; })},
      {"feed_order", "first_row_number of sequence 1 must be 0, got 1",
       changed_feed([](auto& feed) { feed.sequences[0].first_row_number = 1; })},
      {"feed_order", "granted are 100",
       [](Peer& peer) {
         FakeVerifier verifier;
         peer.Open();
         peer.SendFeed(verifier.Feed(1, 0, 102, 1).Take());
       }},
      {"feed_order", "one more than the 4",
       [](Peer& peer) {
         FakeVerifier verifier;
         peer.Open();
         for (uint64_t id = 0; id < 5; ++id) verifier.Feed(id, 0, 2);
         peer.SendFeed(verifier.Take());
       }},
  };
  std::map<std::string, int> counts;
  for (const Case& c : cases) {
    Peer peer(server_->address());
    c.act(peer);
    const grpc::Status status = peer.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << c.message;
    EXPECT_THAT(status.error_message(), HasSubstr(c.message));
    EXPECT_EQ(
        Metric("tandem_protocol_errors_total{check=\"" + std::string(c.check) + "\",peer=\"verifier\"}"),
        " " + std::to_string(++counts[c.check]));
  }
  EXPECT_TRUE(Await([&] { return loop_->stats().streams == 1; }));
  ASSERT_TRUE(other.SendFeed(honest.Feed(1, 8, 12, 2).Take()));
  EXPECT_EQ(other.ReadDraft().length(), 12u);
}

TEST_F(SpeculateServiceTest, AnOversizedMessageEndsOnlyItsStream) {
  Open();
  Peer other(server_->address());
  other.Open();
  {
    Peer peer(server_->address());
    peer.Open();
    v1::SpeculateRequest request;
    request.mutable_feed()->set_rows(std::string(speculation::kMaxSpeculateMessageBytes + 1, 'x'));
    peer.Send(request);
    EXPECT_FALSE(peer.Finish().ok());
  }
  FakeVerifier honest;
  ASSERT_TRUE(other.SendFeed(honest.Feed(1, 0, 9, 1).Take()));
  EXPECT_EQ(other.ReadDraft().length(), 9u);
}

TEST_F(SpeculateServiceTest, AVerifierThatVanishesFreesItsSequences) {
  Open();
  Peer peer(server_->address());
  peer.Open();
  FakeVerifier verifier;
  ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 0, 9, 1).Feed(2, 0, 9).Take()));
  peer.ReadDraft();
  EXPECT_EQ(loop_->stats().sequences, 2);
  peer.Cancel();
  EXPECT_TRUE(AwaitNoSequences());
  EXPECT_TRUE(Await([&] { return service_.num_streams() == 0; }));
}

TEST_F(SpeculateServiceTest, ASilentVerifierIsNotWaitedForLong) {
  Open();
  Peer peer(server_->address());
  EXPECT_EQ(peer.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Await([&] { return service_.num_streams() == 0; }));
}

TEST_F(SpeculateServiceTest, BeforeItIsOpenStreamsAreToldToComeBack) {
  Peer peer(server_->address());
  const grpc::Status status = peer.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(status.error_message(), "drafter is starting");
  const auto& metadata = peer.context().GetServerTrailingMetadata();
  ASSERT_NE(metadata.find("grpc-retry-pushback-ms"), metadata.end());
}

TEST_F(SpeculateServiceTest, LeavingIsSaidAndEndsEveryStream) {
  Open();
  Peer peer(server_->address()), mute(server_->address());
  peer.Open();
  ASSERT_TRUE(mute.SendHello());
  FakeVerifier verifier;
  ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 0, 9, 1).Take()));
  peer.ReadDraft();
  std::thread leave([&] { service_.Leave(); });
  EXPECT_TRUE(peer.Read().has_draining());
  const grpc::Status status = peer.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  leave.join();
  Peer late(server_->address());
  EXPECT_EQ(late.Finish().error_message(), "drafter is leaving");
  EXPECT_TRUE(AwaitNoSequences());
}

TEST_F(SpeculateServiceTest, TheServersEndClosesStreamsInTheEngine) {
  Open();
  Peer peer(server_->address());
  peer.Open();
  FakeVerifier verifier;
  ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 0, 9, 1).Take()));
  peer.ReadDraft();
  server_->Shutdown(absl::ZeroDuration());
  EXPECT_TRUE(AwaitNoSequences());
  EXPECT_FALSE(peer.Finish().ok());
}

TEST_F(SpeculateServiceTest, ASlowReaderGetsFewerLargerBatches) {
  Open();
  Peer peer(server_->address());
  peer.Open();
  FakeVerifier verifier;
  const int feeds = 3000;
  // The service reads on while nobody reads its answers. No rows: no credit is needed.
  for (int i = 1; i <= feeds; ++i) {
    const auto epoch = static_cast<uint32_t>(i);
    ASSERT_TRUE(peer.SendFeed(verifier.Feed(1, 0, 1, 1, epoch).Feed(2, 0, 1, 1, epoch).Take()));
  }
  uint64_t number = 0, feed_number = 0;
  while (feed_number < feeds) {
    const v1::DraftBatch batch = peer.Read().drafts();
    ASSERT_EQ(batch.number(), ++number);
    ASSERT_GT(batch.feed_number(), feed_number);
    ASSERT_LE(batch.drafts_size(), 2);
    feed_number = batch.feed_number();
  }
  EXPECT_LE(number, static_cast<uint64_t>(feeds));
}

class SpeculateFloodTest : public SpeculateServiceTest {
 protected:
  SpeculateFloodTest() : SpeculateServiceTest(100) {}
};

TEST_F(SpeculateFloodTest, FeedsThatPileUpEndTheStream) {
  Open();
  Peer peer(server_->address());
  peer.Open();
  FakeVerifier verifier;
  peer.SendFeed(verifier.Feed(1, 0, 30, 1).Take());  // more than 100 bytes in one
  const grpc::Status status = peer.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Metric("tandem_protocol_errors_total{check=\"flood\",peer=\"verifier\"}"), " 1");
}

}  // namespace
}  // namespace tandem::drafter
