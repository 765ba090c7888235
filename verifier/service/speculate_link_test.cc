#include "verifier/service/speculate_link.h"

#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/speculation/local_machine.h"
#include "common/speculation/projection_bytes.h"
#include "common/speculation/row_ring.h"
#include "common/speculation/wire/speculate_messages.h"
#include "tandem/v1/speculate.grpc.pb.h"
#include "verifier/service/speculate_outbox.h"

namespace tandem::verifier {
namespace {

using speculation::RowTransport;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Stream = grpc::ServerReaderWriter<v1::SpeculateResponse, v1::SpeculateRequest>;

constexpr int32_t kWidth = 4, kHidden = 8;
constexpr int64_t kRowBytes = kWidth * 4;

// A drafter whose side of a stream is a function of the test.
class ScriptedPeer : public v1::Drafter::Service {
 public:
  explicit ScriptedPeer(std::function<grpc::Status(Stream&)> script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~ScriptedPeer() override { server_->Shutdown(std::chrono::system_clock::now()); }
  Address address() const { return {"127.0.0.1", static_cast<uint16_t>(port_), ""}; }
  grpc::Status Speculate(grpc::ServerContext*, Stream* stream) override { return script_(*stream); }

 private:
  const std::function<grpc::Status(Stream&)> script_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

class RecordingListener : public DrafterLink::Listener {
 public:
  void OnOpen(speculation::DrafterHello hello, std::shared_ptr<const speculation::Projection> projection,
              RowTransport transport, std::shared_ptr<MessageSource> source) override {
    absl::MutexLock lock(&mu_);
    source_ = std::move(source);
    hello_ = std::move(hello);
    projection_ = std::move(projection);
    events_.push_back(std::string("open ") + speculation::RowTransportName(transport));
  }
  void OnDrafts(speculation::DraftBatch batch) override {
    absl::MutexLock lock(&mu_);
    events_.push_back("drafts " + std::to_string(batch.number) + " of " +
                      std::to_string(batch.drafts.size()));
  }
  void OnFallback(const std::string& instead, absl::Status why) override {
    absl::MutexLock lock(&mu_);
    fallbacks_.push_back(instead + ": " + std::string(why.message()));
  }
  void OnProtocolError(std::string check) override {
    absl::MutexLock lock(&mu_);
    events_.push_back("error " + check);
  }
  void OnClosed(absl::Status why) override {
    absl::MutexLock lock(&mu_);
    why_ = std::move(why);
    events_.push_back("closed");
  }
  std::vector<std::string> Await(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return events_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(20)));
    return events_;
  }
  absl::Status AwaitClosed() {
    absl::MutexLock lock(&mu_);
    const auto closed = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return !events_.empty() && events_.back() == "closed";
    };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&closed), absl::Seconds(20)));
    return why_;
  }
  std::shared_ptr<const speculation::Projection> projection() {
    absl::MutexLock lock(&mu_);
    return projection_;
  }
  std::shared_ptr<MessageSource> source() {
    absl::MutexLock lock(&mu_);
    return source_;
  }
  std::vector<std::string> fallbacks() {
    absl::MutexLock lock(&mu_);
    return fallbacks_;
  }

 private:
  absl::Mutex mu_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mu_);
  speculation::DrafterHello hello_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const speculation::Projection> projection_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<MessageSource> source_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> fallbacks_ ABSL_GUARDED_BY(mu_);
  absl::Status why_ ABSL_GUARDED_BY(mu_);
};

speculation::VerifierHello Hello(bool shared_memory) {
  speculation::VerifierHello hello;
  hello.protocol_major = 1;
  hello.incarnation = "0123456789abcdef";
  hello.sampling_version = 1;
  hello.vocab_size = 100;
  hello.hidden_size = kHidden;
  hello.num_layers = 4;
  hello.max_model_len = 64;
  hello.row_type = speculation::RowType::kF32;
  const speculation::LocalMachine machine = speculation::ReadLocalMachine();
  hello.boot_id = machine.boot_id;
  hello.uid = machine.uid;
  hello.shared_memory = shared_memory;
  return hello;
}

speculation::Projection ExampleProjection() {
  speculation::Projection projection;
  projection.width = kWidth;
  projection.taps = {0, 3};
  for (int i = 0; i < kWidth * 2 * kHidden; ++i) projection.fc.push_back(0.25f * static_cast<float>(i));
  projection.norm.assign(kWidth, 1.0f);
  projection.norm_eps = 1e-5f;
  return projection;
}

speculation::DrafterHello PeerHello(RowTransport transport, bool rows = true) {
  speculation::DrafterHello hello;
  hello.protocol_major = 1;
  hello.incarnation = "fedcba9876543210";
  hello.sampling_version = 1;
  hello.algorithm = hello.name = "fake";
  hello.vocab_size = 100;
  hello.block_size = 3;
  if (rows) {
    const speculation::Projection projection = ExampleProjection();
    hello.row_width = projection.width;
    hello.taps = projection.taps;
    hello.has_norm = true;
    hello.norm_eps = projection.norm_eps;
    hello.projection_bytes = speculation::ProjectionNumBytes(projection);
    hello.projection_hash = speculation::ProjectionHash(projection);
  }
  hello.transport = transport;
  hello.rows_granted = 100;
  hello.max_sequences = 4;
  hello.max_context_rows = 60;
  return hello;
}

v1::SpeculateRequest Read(Stream& stream) {
  v1::SpeculateRequest request;
  stream.Read(&request);
  return request;
}

bool SayHello(Stream& stream, const speculation::DrafterHello& hello) {
  v1::SpeculateRequest request;
  if (!stream.Read(&request) || !request.has_hello()) return false;
  v1::SpeculateResponse response;
  speculation::FillHello(hello, *response.mutable_hello());
  return stream.Write(response);
}

// In two chunks; `change` spoils the second.
void SendProjection(Stream& stream, const std::function<void(v1::ProjectionChunk&)>& change = nullptr) {
  const speculation::Projection projection = ExampleProjection();
  const int64_t total = speculation::ProjectionNumBytes(projection);
  for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 64}, {64, total}}) {
    v1::SpeculateResponse response;
    v1::ProjectionChunk& chunk = *response.mutable_projection();
    chunk.set_offset(from);
    chunk.mutable_data()->resize(to - from);
    speculation::CopyProjectionBytes(projection, from,
                                     std::as_writable_bytes(std::span(*chunk.mutable_data())));
    if (from > 0 && change) change(chunk);
    stream.Write(response);
  }
}

void SendBatch(Stream& stream, uint64_t number, uint64_t feed_number, int num_drafts, int32_t token = 5) {
  v1::SpeculateResponse response;
  v1::DraftBatch& batch = *response.mutable_drafts();
  batch.set_number(number);
  batch.set_feed_number(feed_number);
  batch.set_rows_granted(100);
  for (int i = 0; i < num_drafts; ++i) {
    v1::SequenceDraft& draft = *batch.add_drafts();
    draft.set_id(i);
    draft.set_length(3);
    draft.set_anchor(1);
    draft.add_token_ids(token);
  }
  stream.Write(response);
}

std::vector<std::byte> Row(int64_t number) {
  std::vector<std::byte> row(kRowBytes);
  for (int64_t i = 0; i < kRowBytes; ++i) row[i] = static_cast<std::byte>(number * 16 + i);
  return row;
}

speculation::Feed FeedOf(uint64_t id, int32_t from, int32_t num_rows, int64_t first_row) {
  speculation::Feed feed;
  speculation::SequenceFeed entry;
  entry.id = id;
  entry.epoch = 1;
  entry.from = from;
  entry.num_rows = num_rows;
  entry.first_row_number = first_row;
  entry.tokens.assign(num_rows + 1, 7);
  if (from == 0) entry.sampling = speculation::DraftSampling{};
  entry.draft = true;
  entry.round = 1;
  feed.sequences.push_back(std::move(entry));
  return feed;
}

int NumRings() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm"))
    count += entry.path().filename().string().starts_with("tandem-" + std::to_string(getpid()) + "-");
  return count;
}

TEST(SpeculateLink, OpensWithoutRowsAndCarriesFeedsAndDrafts) {
  v1::Feed got;
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHello(RowTransport::kInline, false));
    got = Read(stream).feed();
    SendBatch(stream, 1, 1, 2);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(Hello(false), listener);
  EXPECT_THAT(listener.Await(1), ElementsAre("open inline"));
  EXPECT_EQ(listener.projection(), nullptr);
  link->SendFeed(FeedOf(9, 0, 2, 0));
  EXPECT_THAT(listener.Await(2), ElementsAre("open inline", "drafts 1 of 2"));
  EXPECT_EQ(got.number(), 1u);
  EXPECT_EQ(got.sequences(0).id(), 9u);
  link->Close();
  EXPECT_EQ(listener.AwaitClosed().code(), absl::StatusCode::kCancelled);
}

TEST(SpeculateLink, RowsGoInlineWithTheFeedThatNamesThem) {
  std::string rows;
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHello(RowTransport::kInline));
    SendProjection(stream);
    const v1::Feed feed = Read(stream).feed();
    rows = feed.rows();
    SendBatch(stream, 1, 1, 0);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(Hello(false), listener);
  listener.Await(1);
  ASSERT_NE(listener.projection(), nullptr);
  EXPECT_EQ(listener.projection()->fc, ExampleProjection().fc);
  EXPECT_EQ(listener.projection()->norm, ExampleProjection().norm);
  EXPECT_THAT(listener.projection()->taps, ElementsAre(0, 3));
  for (int64_t n = 0; n < 3; ++n) link->PutRow(n, Row(n));
  link->SendFeed(FeedOf(1, 0, 3, 0));
  listener.Await(2);
  ASSERT_EQ(rows.size(), 3u * kRowBytes);
  EXPECT_EQ(static_cast<std::byte>(rows[2 * kRowBytes + 5]), Row(2)[5]);
}

TEST(SpeculateLink, RowsGoThroughTheRingOnceItsNonceIsEchoed) {
  std::vector<std::byte> rows(2 * kRowBytes);
  size_t inline_bytes = 1;
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHello(RowTransport::kSharedMemory));
    SendProjection(stream);
    const auto address = speculation::ReadRing(Read(stream).ring());
    auto ring = speculation::RowRingReader::Open(*address);
    if (!ring.ok()) return grpc::Status(grpc::StatusCode::INTERNAL, std::string(ring.status().message()));
    v1::SpeculateResponse response;
    response.mutable_ring()->set_nonce((*ring)->nonce().data(), (*ring)->nonce().size());
    stream.Write(response);
    inline_bytes = Read(stream).feed().rows().size();
    if (!(*ring)->Read(0, 2, rows).ok()) return grpc::Status(grpc::StatusCode::INTERNAL, "no rows");
    SendBatch(stream, 1, 1, 0);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(Hello(true), listener);
  EXPECT_THAT(listener.Await(1), ElementsAre("open shm"));
  EXPECT_EQ(NumRings(), 0);  // unlinked by now
  link->PutRow(0, Row(0));
  link->PutRow(1, Row(1));
  link->SendFeed(FeedOf(1, 0, 2, 0));
  EXPECT_THAT(listener.Await(2), ElementsAre("open shm", "drafts 1 of 0"));
  EXPECT_EQ(inline_bytes, 0u);
  EXPECT_TRUE(std::equal(rows.begin() + kRowBytes, rows.end(), Row(1).begin()));
}

TEST(SpeculateLink, ARefusedRingMeansInline) {
  for (const std::string& nonce : {std::string(), std::string(16, 'x')}) {
    ScriptedPeer peer([&](Stream& stream) {
      SayHello(stream, PeerHello(RowTransport::kSharedMemory));
      Read(stream);
      v1::SpeculateResponse response;
      response.mutable_ring()->set_nonce(nonce);
      stream.Write(response);
      SendProjection(stream);
      SendBatch(stream, 1, 0, Read(stream).feed().rows().size() == kRowBytes ? 1 : 0);
      Read(stream);
      return grpc::Status::OK;
    });
    RecordingListener listener;
    const auto link = NewSpeculateLink(peer.address());
    link->Connect(Hello(true), listener);
    EXPECT_THAT(listener.Await(1), ElementsAre("open inline"));
    EXPECT_EQ(NumRings(), 0);
    link->PutRow(0, Row(0));
    link->SendFeed(FeedOf(1, 0, 1, 0));
    EXPECT_THAT(listener.Await(2), ElementsAre("open inline", "drafts 1 of 1"));
  }
}

TEST(SpeculateLink, ARingTooLargeIsNotOfferedAndRowsGoInline) {
  ScriptedPeer peer([&](Stream& stream) {
    speculation::DrafterHello hello = PeerHello(RowTransport::kSharedMemory);
    hello.rows_granted = int64_t{1} << 61;
    SayHello(stream, hello);
    SendProjection(stream);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(Hello(true), listener);
  EXPECT_THAT(listener.Await(1), ElementsAre("open inline"));
}

TEST(SpeculateLink, WhateverIsWrongBeforeItIsOpenEndsTheStream) {
  struct Case {
    absl::StatusCode code;
    const char* message;
    std::function<void(Stream&)> script;
  };
  const auto hello_with = [](auto change) {
    return [change](Stream& stream) {
      speculation::DrafterHello hello = PeerHello(RowTransport::kInline);
      change(hello);
      SayHello(stream, hello);
    };
  };
  const auto projection_with = [](auto change) {
    return [change](Stream& stream) {
      SayHello(stream, PeerHello(RowTransport::kInline));
      SendProjection(stream, change);
    };
  };
  const std::vector<Case> cases{
      {absl::StatusCode::kFailedPrecondition, "hello.vocab_size differs: verifier 100, drafter 99",
       hello_with([](auto& h) { h.vocab_size = 99; })},
      {absl::StatusCode::kFailedPrecondition, "hello.sampling_version differs",
       hello_with([](auto& h) { h.sampling_version = 2; })},
      {absl::StatusCode::kFailedPrecondition, "hello.transport differs",
       hello_with([](auto& h) { h.transport = RowTransport::kSharedMemory; })},
      {absl::StatusCode::kInvalidArgument, "hello.projection_bytes must be",
       hello_with([](auto& h) { h.projection_bytes += 4; })},
      {absl::StatusCode::kInvalidArgument, "hello.block_size",
       hello_with([](auto& h) { h.block_size = 65; })},
      {absl::StatusCode::kInvalidArgument, "has the hash",
       projection_with([](auto& c) { (*c.mutable_data())[0] ^= 1; })},
      {absl::StatusCode::kInvalidArgument, "projection.offset must be 64",
       projection_with([](auto& c) { c.set_offset(68); })},
      {absl::StatusCode::kInvalidArgument, "projection.data must be",
       projection_with([](auto& c) { c.mutable_data()->append("1234"); })},
      {absl::StatusCode::kInvalidArgument, "a second hello",
       [](Stream& stream) {
         SayHello(stream, PeerHello(RowTransport::kInline));
         v1::SpeculateResponse response;
         speculation::FillHello(PeerHello(RowTransport::kInline), *response.mutable_hello());
         stream.Write(response);
       }},
      {absl::StatusCode::kInvalidArgument, "a ring answer came without an offer",
       [](Stream& stream) {
         v1::SpeculateResponse response;
         response.mutable_ring();
         stream.Write(response);
       }},
      {absl::StatusCode::kInvalidArgument, "drafts came before",
       [](Stream& stream) { SendBatch(stream, 1, 0, 1); }},
      {absl::StatusCode::kInvalidArgument, "a projection chunk came that is not expected",
       [](Stream& stream) { SendProjection(stream); }},
      {absl::StatusCode::kInvalidArgument, "a message holds none",
       [](Stream& stream) { stream.Write(v1::SpeculateResponse()); }},
      {absl::StatusCode::kUnavailable, "the drafter is leaving",
       [](Stream& stream) {
         v1::SpeculateResponse response;
         response.mutable_draining();
         stream.Write(response);
       }},
  };
  for (const Case& c : cases) {
    ScriptedPeer peer([&](Stream& stream) {
      c.script(stream);
      v1::SpeculateRequest request;
      while (stream.Read(&request)) {
      }
      return grpc::Status::OK;
    });
    RecordingListener listener;
    const auto link = NewSpeculateLink(peer.address());
    link->Connect(Hello(false), listener);
    const absl::Status why = listener.AwaitClosed();
    EXPECT_EQ(why.code(), c.code) << c.message;
    EXPECT_THAT(std::string(why.message()), HasSubstr(c.message));
    EXPECT_THAT(listener.Await(1), ElementsAre("closed"));  // never open
  }
}

TEST(SpeculateLink, BadEntriesAreDroppedAloneAndBadBatchesEndTheStream) {
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHello(RowTransport::kInline, false));
    Read(stream);
    SendBatch(stream, 1, 1, 2, 100);  // no such id
    SendBatch(stream, 2, 1, 1);
    SendBatch(stream, 4, 1, 1);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(Hello(false), listener);
  listener.Await(1);
  link->SendFeed(FeedOf(1, 0, 0, 0));
  const absl::Status why = listener.AwaitClosed();
  EXPECT_EQ(why.message(), "drafts.number must be 3, got 4");
  EXPECT_THAT(listener.Await(6), ElementsAre("open inline", "error token_id", "error token_id",
                                             "drafts 1 of 0", "drafts 2 of 1", "closed"));
}

TEST(SpeculateLink, ABatchAboutAFeedThatWasNeverSentEndsTheStream) {
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHello(RowTransport::kInline, false));
    SendBatch(stream, 1, 1, 0);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(Hello(false), listener);
  EXPECT_EQ(listener.AwaitClosed().message(), "drafts.feed_number must be in 0..0, got 1");
}

// --- through a socket

speculation::VerifierHello HelloWithSocket() {
  speculation::VerifierHello hello = Hello(false);
  hello.local_socket = true;
  return hello;
}

speculation::DrafterHello PeerHelloWithSocket() {
  speculation::DrafterHello hello = PeerHello(RowTransport::kInline, false);
  hello.local_socket = true;
  return hello;
}

void AnswerSocket(Stream& stream, bool connected) {
  v1::SpeculateResponse response;
  response.mutable_socket()->set_connected(connected);
  stream.Write(response);
}

// The drafter's end, up to its answer.
std::unique_ptr<rpc::MessageSocket> OpenSocket(Stream& stream) {
  SayHello(stream, PeerHelloWithSocket());
  const auto address = speculation::ReadSocket(Read(stream).socket());
  EXPECT_TRUE(address.ok()) << address.status();
  auto socket = rpc::MessageSocket::Connect(*address);
  EXPECT_TRUE(socket.ok()) << socket.status();
  AnswerSocket(stream, true);
  return *std::move(socket);
}

void AwaitReadable(int fd) {
  pollfd watch{fd, POLLIN, 0};
  EXPECT_EQ(poll(&watch, 1, 20'000), 1);
}

v1::Feed ReadFeed(rpc::MessageSocket& socket) {
  v1::Feed feed;
  while (true) {
    const auto bytes = socket.Receive();
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    if (!bytes.ok()) return feed;
    if (*bytes) {
      EXPECT_TRUE(feed.ParseFromArray((*bytes)->data(), static_cast<int>((*bytes)->size())));
      return feed;
    }
    AwaitReadable(socket.fd());
  }
}

void SendBatch(rpc::MessageSocket& socket, uint64_t number, uint64_t feed_number, int32_t token) {
  v1::DraftBatch batch;
  batch.set_number(number);
  batch.set_feed_number(feed_number);
  batch.set_rows_granted(100);
  v1::SequenceDraft& draft = *batch.add_drafts();
  draft.set_length(3);
  draft.add_token_ids(token);
  EXPECT_TRUE(socket.Send(batch.SerializeAsString()).ok());
}

// As the step loop does, until the source ends.
bool Turn(MessageSource& source) {
  AwaitReadable(source.fd());
  return source.OnReady();
}

TEST(SpeculateLink, FeedsAndDraftsGoThroughASocketOnceItIsConnected) {
  ScriptedPeer peer([&](Stream& stream) {
    const auto socket = OpenSocket(stream);
    for (uint64_t number = 1; number <= 3; ++number) {
      const v1::Feed feed = ReadFeed(*socket);
      EXPECT_EQ(feed.number(), number);
      EXPECT_EQ(feed.sequences(0).id(), number);
      SendBatch(*socket, number, number, number == 2 ? 100 : 5);  // no such id: dropped alone
    }
    v1::SpeculateRequest request;
    EXPECT_FALSE(stream.Read(&request)) << "beside the socket: " << request.DebugString();
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(HelloWithSocket(), listener);
  listener.Await(1);
  const std::shared_ptr<MessageSource> source = listener.source();
  ASSERT_NE(source, nullptr);
  for (uint64_t number = 1; number <= 3; ++number) {
    link->SendFeed(FeedOf(number, 0, 2, 0));
    EXPECT_FALSE(source->sending());
    ASSERT_TRUE(Turn(*source));
  }
  EXPECT_THAT(listener.Await(5), ElementsAre("open inline", "drafts 1 of 1", "error token_id",
                                             "drafts 2 of 0", "drafts 3 of 1"));
  link->Close();
  EXPECT_EQ(listener.AwaitClosed().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(listener.fallbacks(), ElementsAre());
}

TEST(SpeculateLink, AHungDrafterGetsMergedFeedsThroughItsSocket) {
  absl::Notification go_on;
  ScriptedPeer peer([&](Stream& stream) {
    const auto socket = OpenSocket(stream);
    go_on.WaitForNotification();
    uint64_t last = 0, number = 0;
    while (last < 2000) {
      const v1::Feed feed = ReadFeed(*socket);
      EXPECT_EQ(feed.number(), ++number);
      for (const v1::SequenceFeed& entry : feed.sequences()) {
        last += entry.from() == 0;  // else the rest of one that was split
        EXPECT_EQ(entry.id(), last);
      }
    }
    EXPECT_LT(number, 2000u);
    SendBatch(*socket, 1, number, 5);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(HelloWithSocket(), listener);
  listener.Await(1);
  const std::shared_ptr<MessageSource> source = listener.source();
  ASSERT_NE(source, nullptr);
  for (uint64_t id = 1; id <= 2000; ++id) link->SendFeed(FeedOf(id, 0, 500, 0));
  EXPECT_TRUE(source->sending());
  go_on.Notify();
  while (source->sending()) {
    pollfd watch{source->fd(), POLLOUT, 0};
    ASSERT_EQ(poll(&watch, 1, 20'000), 1);
    ASSERT_TRUE(source->OnReady());
  }
  ASSERT_TRUE(Turn(*source));
  EXPECT_THAT(listener.Await(2), ElementsAre("open inline", "drafts 1 of 1"));
}

TEST(SpeculateLink, WithoutASocketFeedsStayInTheStream) {
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHelloWithSocket());
    EXPECT_TRUE(Read(stream).has_socket());
    AnswerSocket(stream, false);
    SendBatch(stream, 1, Read(stream).feed().number(), 1);
    Read(stream);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewSpeculateLink(peer.address());
  link->Connect(HelloWithSocket(), listener);
  listener.Await(1);
  EXPECT_EQ(listener.source(), nullptr);
  EXPECT_THAT(listener.fallbacks(),
              ElementsAre("feeds and drafts go through gRPC: the drafter cannot reach the socket"));
  link->SendFeed(FeedOf(9, 0, 2, 0));
  EXPECT_THAT(listener.Await(2), ElementsAre("open inline", "drafts 1 of 1"));
}

TEST(SpeculateLink, ASocketThatIsWrongEndsTheStream) {
  struct Case {
    absl::StatusCode code;
    const char* message;
    std::function<void(Stream&)> script;
    bool opens = true;
  };
  using rpc::MessageSocket;
  const auto by_socket = [](auto act) {
    return [act](Stream& stream) {
      const std::unique_ptr<MessageSocket> socket = OpenSocket(stream);
      act(*socket);
      v1::SpeculateRequest request;
      while (stream.Read(&request)) {
      }
    };
  };
  const std::vector<Case> cases{
      {absl::StatusCode::kUnavailable, "nobody has connected",
       [](Stream& stream) {
         SayHello(stream, PeerHelloWithSocket());
         Read(stream);
         AnswerSocket(stream, true);
       },
       false},
      {absl::StatusCode::kInvalidArgument, "a socket answer came without an offer",
       [](Stream& stream) { AnswerSocket(stream, true); }, false},
      {absl::StatusCode::kInvalidArgument, "or not by the socket",
       [](Stream& stream) {
         const auto socket = OpenSocket(stream);
         SendBatch(stream, 1, 0, 1);
         Read(stream);
       }},
      {absl::StatusCode::kInvalidArgument, "no DraftBatch",
       by_socket([](MessageSocket& socket) { EXPECT_TRUE(socket.Send("\xff\xff garbage").ok()); })},
      {absl::StatusCode::kInvalidArgument, "a message must have at most",
       by_socket([](MessageSocket& socket) { EXPECT_EQ(write(socket.fd(), "\xff\xff\xff\xff", 4), 4); })},
      {absl::StatusCode::kInvalidArgument, "drafts.number must be 1, got 2",
       by_socket([](MessageSocket& socket) { SendBatch(socket, 2, 0, 5); })},
      {absl::StatusCode::kInvalidArgument, "drafts.feed_number must be in 0..0, got 1",
       by_socket([](MessageSocket& socket) { SendBatch(socket, 1, 1, 5); })},
      {absl::StatusCode::kUnavailable, "the peer has closed the socket",
       by_socket([](MessageSocket& socket) { shutdown(socket.fd(), SHUT_RDWR); })},
  };
  for (const Case& c : cases) {
    ScriptedPeer peer([&](Stream& stream) {
      c.script(stream);
      return grpc::Status::OK;
    });
    RecordingListener listener;
    const auto link = NewSpeculateLink(peer.address());
    link->Connect(HelloWithSocket(), listener);
    listener.Await(1);
    if (const std::shared_ptr<MessageSource> source = listener.source(); source != nullptr) {
      while (Turn(*source)) {
      }
    }
    const absl::Status why = listener.AwaitClosed();
    EXPECT_EQ(why.code(), c.code) << c.message;
    EXPECT_THAT(std::string(why.message()), HasSubstr(c.message));
    EXPECT_EQ(listener.Await(1).front(), c.opens ? "open inline" : "closed");
  }
}

TEST(SpeculateLink, AfterItsEndItConnectsAgainWithRowsCountedAnew) {
  int streams = 0;
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHello(RowTransport::kInline));
    SendProjection(stream);
    const v1::Feed feed = Read(stream).feed();
    ++streams;
    return feed.number() == 1 ? grpc::Status(grpc::StatusCode::ABORTED, "for a test") : grpc::Status::OK;
  });
  const auto link = NewSpeculateLink(peer.address());
  for (int i = 1; i <= 3; ++i) {
    RecordingListener listener;
    link->Connect(Hello(false), listener);
    listener.Await(1);
    link->PutRow(0, Row(0));
    link->SendFeed(FeedOf(1, 0, 1, 0));
    EXPECT_EQ(listener.AwaitClosed().code(), absl::StatusCode::kAborted);
    EXPECT_EQ(streams, i);
    link->PutRow(5, Row(5));  // no stream: nothing happens
    link->SendFeed({});
    link->Close();
  }
}

TEST(SpeculateLink, NobodyThereIsUnavailable) {
  RecordingListener listener;
  const auto link = NewSpeculateLink({"127.0.0.1", 1, ""});
  link->Connect(Hello(false), listener);
  EXPECT_EQ(listener.AwaitClosed().code(), absl::StatusCode::kUnavailable);
}

TEST(SpeculateLink, ASilentDrafterIsNotWaitedForLong) {
  ScriptedPeer peer([&](Stream& stream) {
    v1::SpeculateRequest request;
    while (stream.Read(&request)) {
    }
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link =
      NewSpeculateLink(peer.address(), {.channel = {}, .open_timeout = absl::Milliseconds(100)});
  link->Connect(Hello(false), listener);
  const absl::Status why = listener.AwaitClosed();
  EXPECT_EQ(why.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(why.message()), HasSubstr("not ready within 100ms"));
}

TEST(SpeculateLink, GoesAwayWhileConnected) {
  ScriptedPeer peer([&](Stream& stream) {
    SayHello(stream, PeerHello(RowTransport::kSharedMemory));
    v1::SpeculateRequest request;
    while (stream.Read(&request)) {
    }
    return grpc::Status::OK;
  });
  for (int i = 0; i < 10; ++i) {
    RecordingListener listener;
    auto link = NewSpeculateLink(peer.address());
    link->Connect(Hello(true), listener);
    link.reset();
    EXPECT_EQ(listener.AwaitClosed().code(), absl::StatusCode::kCancelled);
  }
  EXPECT_EQ(NumRings(), 0);
}

// --- the outbox by itself

v1::Feed TakeFeed(SpeculateOutbox& outbox) {
  v1::SpeculateRequest request;
  EXPECT_TRUE(outbox.Take(request));
  EXPECT_TRUE(request.has_feed());
  return request.feed();
}

TEST(SpeculateOutbox, FeedsThatWaitBecomeOne) {
  SpeculateOutbox outbox(Hello(false));
  v1::SpeculateRequest hello;
  ASSERT_TRUE(outbox.Take(hello));
  ASSERT_TRUE(hello.has_hello());
  outbox.PutFeed(FeedOf(1, 0, 2, 0));
  outbox.PutFeed(FeedOf(2, 0, 1, 2));
  outbox.PutFeed(FeedOf(1, 2, 1, 3));
  const v1::Feed feed = TakeFeed(outbox);
  EXPECT_EQ(feed.number(), 1u);
  ASSERT_EQ(feed.sequences_size(), 3);
  EXPECT_FALSE(feed.sequences(0).draft());
  EXPECT_TRUE(feed.sequences(2).draft());
  EXPECT_EQ(outbox.last_feed_sent(), 1u);
  EXPECT_FALSE(outbox.Take(hello));
}

TEST(SpeculateOutbox, LongFeedsAreSplitAtRowsAndStayWhole) {
  SpeculateOutbox outbox(Hello(false));
  v1::SpeculateRequest hello;
  outbox.Take(hello);
  const int64_t row_bytes = 100'000;
  outbox.SetRowBytes(row_bytes);
  for (int64_t n = 0; n < 25; ++n) {
    ASSERT_TRUE(outbox.PutRow(n, std::vector<std::byte>(row_bytes, static_cast<std::byte>(n))).ok());
  }
  speculation::Feed feed = FeedOf(1, 0, 23, 0);
  for (int i = 0; i < 24; ++i) feed.sequences[0].tokens[i] = i;
  feed.forgotten = {{7, 1}};
  outbox.PutFeed(std::move(feed));
  outbox.PutFeed(FeedOf(2, 0, 2, 23));
  int32_t rows = 0;
  uint64_t number = 0;
  for (bool last = false; !last;) {
    const v1::Feed part = TakeFeed(outbox);
    EXPECT_EQ(part.number(), ++number);
    EXPECT_LE(part.ByteSizeLong(), static_cast<size_t>(SpeculateOutbox::kFeedBytes) + row_bytes);
    size_t at = 0;
    for (const v1::SequenceFeed& entry : part.sequences()) {
      EXPECT_EQ(entry.first_row_number(), static_cast<uint64_t>(rows));
      EXPECT_EQ(entry.token_ids_size(), static_cast<int>(entry.num_rows()) + 1);
      EXPECT_EQ(entry.has_sampling(), entry.from() == 0);
      if (entry.id() == 1) {
        EXPECT_EQ(entry.from(), static_cast<uint32_t>(rows));
        EXPECT_EQ(entry.token_ids(0), rows);
        EXPECT_EQ(entry.draft(), entry.from() + entry.num_rows() == 23);
      }
      for (uint32_t i = 0; i < entry.num_rows(); ++i, at += row_bytes) {
        EXPECT_EQ(part.rows()[at], static_cast<char>(rows));
        ++rows;
      }
      last = entry.id() == 2;
    }
    EXPECT_EQ(part.rows().size(), at);
    EXPECT_EQ(part.forgotten_size(), last ? 1 : 0);
  }
  EXPECT_EQ(rows, 25);
  EXPECT_EQ(number, 3u);
}

TEST(SpeculateOutbox, RowsForADrafterThatReadsNothingAreBounded) {
  SpeculateOutbox outbox(Hello(false));
  const int64_t row_bytes = 16 << 20;
  outbox.SetRowBytes(row_bytes);
  const std::vector<std::byte> row(row_bytes);
  int64_t n = 0;
  while (outbox.PutRow(n, row).ok()) ++n;
  EXPECT_EQ(n, SpeculateOutbox::kMaxWaitingBytes / row_bytes);
}

}  // namespace
}  // namespace tandem::verifier
