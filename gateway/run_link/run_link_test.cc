#include "gateway/run_link/run_link.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "common/rpc/message_socket.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tandem/v1/run.grpc.pb.h"

namespace tandem::gateway {
namespace {

using Stream = grpc::ServerReaderWriter<v1::RunResponse, v1::RunRequest>;

// A verifier whose side of a stream is a function of the test.
class ScriptedVerifier : public v1::Verifier::Service {
 public:
  explicit ScriptedVerifier(std::function<grpc::Status(Stream&)> script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~ScriptedVerifier() override { server_->Shutdown(std::chrono::system_clock::now()); }
  Address address() const { return {"127.0.0.1", static_cast<uint16_t>(port_), ""}; }

  grpc::Status Run(grpc::ServerContext*, Stream* stream) override { return script_(*stream); }

 private:
  const std::function<grpc::Status(Stream&)> script_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

class RecordingListener : public VerifierLink::Listener {
 public:
  void OnHello(VerifierHello hello) override { Add("hello " + hello.identity.fingerprint); }
  void OnReport(Report report) override { Add("report " + std::to_string(report.number)); }
  void OnDraining(absl::Duration left) override { Add("draining " + absl::FormatDuration(left)); }
  void OnSource(std::shared_ptr<MessageSource> source) override {
    {
      absl::MutexLock lock(&mu_);
      source_ = std::move(source);
    }
    Add("source");
  }
  void OnFallback(absl::Status why) override { Add("fallback: " + std::string(why.message())); }
  void OnClosed(absl::Status why) override {
    {
      absl::MutexLock lock(&mu_);
      why_ = why;
    }
    Add(std::string("closed ") + absl::StatusCodeToString(why.code()));
  }
  // Waits until so many events have come.
  std::vector<std::string> Await(size_t count) {
    absl::MutexLock lock(&mu_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return events_.size() >= count; };
    EXPECT_TRUE(mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(20)));
    return events_;
  }
  std::shared_ptr<MessageSource> source() {
    absl::MutexLock lock(&mu_);
    return source_;
  }
  absl::Status why() {
    absl::MutexLock lock(&mu_);
    return why_;
  }

 private:
  void Add(std::string event) {
    absl::MutexLock lock(&mu_);
    events_.push_back(std::move(event));
  }
  absl::Mutex mu_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mu_);
  absl::Status why_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<MessageSource> source_ ABSL_GUARDED_BY(mu_);
};

v1::RunResponse Hello() {
  v1::RunResponse response;
  response.mutable_hello()->set_model_fingerprint("f");
  return response;
}
v1::RunResponse NumberedReport(uint64_t number) {
  v1::RunResponse response;
  response.mutable_report()->set_number(number);
  return response;
}

TEST(RunLinkTest, HelloThenPlansOutHelloReportsAndDrainingIn) {
  absl::Mutex mu;
  std::vector<v1::RunRequest> requests;
  ScriptedVerifier verifier([&](Stream& stream) {
    stream.Write(Hello());
    v1::RunRequest request;
    uint64_t number = 0;
    size_t admissions = 0;
    while (admissions < 3 && stream.Read(&request)) {
      admissions += static_cast<size_t>(request.plan().admissions_size());
      absl::MutexLock lock(&mu);
      requests.push_back(request);
    }
    stream.Write(NumberedReport(++number));
    v1::RunResponse draining;
    draining.mutable_draining()->set_drain_ms(5000);
    stream.Write(draining);
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewRunLink(verifier.address());
  GatewayHello hello;
  hello.incarnation = "0123456789abcdef";
  hello.identity = {"f", "n"};
  hello.vocab_size = 9;
  link->Connect(hello, listener);
  EXPECT_EQ(listener.Await(1)[0], "hello f");
  uint64_t last_number = 0;
  for (uint64_t id = 1; id <= 3; ++id) {
    Plan plan;
    plan.admissions.emplace_back().id = id;
    plan.admissions.back().epoch = 1;
    const uint64_t number = link->SendPlan(std::move(plan));
    EXPECT_GE(number, std::max<uint64_t>(last_number, 1));
    EXPECT_LE(number, last_number + 1);
    last_number = number;
  }
  EXPECT_THAT(listener.Await(4),
              ::testing::ElementsAre("hello f", "report 1", "draining 5s", "closed UNAVAILABLE"));
  absl::MutexLock lock(&mu);
  ASSERT_GE(requests.size(), 2u);
  EXPECT_EQ(requests[0].hello().incarnation(), "0123456789abcdef");
  EXPECT_EQ(requests[0].hello().protocol().major(), 1u);
  EXPECT_EQ(requests[0].hello().model_fingerprint(), "f");
  EXPECT_EQ(requests[0].hello().numerics_id(), "n");
  EXPECT_EQ(requests[0].hello().vocab_size(), 9u);
  uint64_t next_id = 1;
  for (size_t i = 1; i < requests.size(); ++i) {
    EXPECT_EQ(requests[i].plan().number(), i);
    for (const auto& admission : requests[i].plan().admissions()) EXPECT_EQ(admission.id(), next_id++);
  }
  EXPECT_EQ(requests.back().plan().number(), last_number);
}

TEST(RunLinkTest, AVerifiersRefusalArrivesWithCodeAndMessage) {
  ScriptedVerifier verifier([](Stream&) {
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "hello.vocab_size differs");
  });
  std::deque<RecordingListener> listeners;  // outlive the link, which borrows them
  const auto link = NewRunLink(verifier.address());
  for (int i = 0; i < 20; ++i) {
    RecordingListener& listener = listeners.emplace_back();
    link->Connect({}, listener);
    EXPECT_EQ(listener.Await(1)[0], "closed FAILED_PRECONDITION");
    EXPECT_EQ(listener.why().message(), "hello.vocab_size differs");
  }
}

TEST(RunLinkTest, NobodyThereIsUnavailable) {
  Address address;
  {
    ScriptedVerifier gone([](Stream&) { return grpc::Status::OK; });
    address = gone.address();
  }
  RecordingListener listener;
  const auto link = NewRunLink(address);
  link->Connect({}, listener);
  EXPECT_EQ(listener.Await(1)[0], "closed UNAVAILABLE");
  EXPECT_EQ(link->SendPlan({}), 0u);
}

TEST(RunLinkTest, CloseEndsTheStreamOnceAndConnectOpensAnother) {
  ScriptedVerifier verifier([](Stream& stream) {
    stream.Write(Hello());
    v1::RunRequest request;
    while (stream.Read(&request)) {
    }
    return grpc::Status::OK;
  });
  std::deque<RecordingListener> listeners;  // outlive the link, which borrows them
  const auto link = NewRunLink(verifier.address());
  for (int i = 0; i < 20; ++i) {
    RecordingListener& listener = listeners.emplace_back();
    link->Connect({}, listener);
    listener.Await(1);
    link->Close(absl::InvalidArgumentError("report fails check gap"));
    link->Close(absl::InternalError("again"));
    EXPECT_EQ(listener.Await(2)[1], "closed INVALID_ARGUMENT");
  }
}

TEST(RunLinkTest, AnEmptyMessageEndsTheStream) {
  ScriptedVerifier verifier([](Stream& stream) {
    stream.Write(v1::RunResponse());
    v1::RunRequest request;
    while (stream.Read(&request)) {
    }
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewRunLink(verifier.address());
  link->Connect({}, listener);
  EXPECT_EQ(listener.Await(1)[0], "closed INVALID_ARGUMENT");
}

v1::RunResponse HelloWithSocket() {
  v1::RunResponse response = Hello();
  response.mutable_hello()->set_local_socket(true);
  return response;
}

// Reads hello and offer, connects and says so.
std::unique_ptr<rpc::MessageSocket> TakeSocket(Stream& stream) {
  v1::RunRequest request;
  EXPECT_TRUE(stream.Read(&request) && request.has_hello());
  EXPECT_TRUE(stream.Read(&request) && request.has_socket());
  auto socket = rpc::MessageSocket::Connect({request.socket().name(), request.socket().nonce()});
  EXPECT_TRUE(socket.ok()) << socket.status();
  v1::RunResponse answer;
  answer.mutable_socket()->set_connected(true);
  EXPECT_TRUE(stream.Write(answer));
  return *std::move(socket);
}

void SendReport(rpc::MessageSocket& socket, uint64_t number) {
  EXPECT_TRUE(socket.Send(NumberedReport(number).report().SerializeAsString()).ok());
}

v1::Plan ReadPlan(rpc::MessageSocket& socket) {
  v1::Plan plan;
  while (true) {
    const auto bytes = socket.Receive();
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    if (!bytes.ok()) return plan;
    if (*bytes) {
      EXPECT_TRUE(plan.ParseFromArray((*bytes)->data(), static_cast<int>((*bytes)->size())));
      return plan;
    }
    pollfd watch{socket.fd(), POLLIN, 0};
    EXPECT_EQ(poll(&watch, 1, 20'000), 1);
  }
}

// As the batcher's loop would when the descriptor is ready.
bool Turn(MessageSource& source) {
  pollfd watch{source.fd(), POLLIN, 0};
  EXPECT_EQ(poll(&watch, 1, 20'000), 1);
  return source.OnReady();
}

TEST(RunLinkTest, PlansAndReportsGoThroughASocket) {
  std::vector<v1::Plan> plans;
  ScriptedVerifier verifier([&](Stream& stream) {
    stream.Write(HelloWithSocket());
    stream.Write(NumberedReport(1));  // before the answer: by the stream
    const auto socket = TakeSocket(stream);
    SendReport(*socket, 2);
    for (int i = 0; i < 3; ++i) {
      plans.push_back(ReadPlan(*socket));
      SendReport(*socket, static_cast<uint64_t>(3 + i));
    }
    v1::RunRequest request;
    EXPECT_FALSE(stream.Read(&request)) << request.ShortDebugString();
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewRunLink(verifier.address());
  link->Connect({}, listener);
  EXPECT_THAT(listener.Await(3), ::testing::ElementsAre("hello f", "report 1", "source"));
  const std::shared_ptr<MessageSource> source = listener.source();
  ASSERT_TRUE(Turn(*source));
  EXPECT_EQ(listener.Await(4)[3], "report 2");
  for (uint64_t number = 1; number <= 3; ++number) {
    Plan plan;
    plan.admissions.emplace_back().id = number;
    EXPECT_EQ(link->SendPlan(std::move(plan)), number);
    ASSERT_TRUE(Turn(*source));
  }
  EXPECT_EQ(listener.Await(7)[6], "report 5");
  link->Close(absl::CancelledError("over"));
  EXPECT_EQ(listener.Await(8)[7], "closed CANCELLED");
  ASSERT_EQ(plans.size(), 3u);
  for (uint64_t number = 1; number <= 3; ++number) {
    EXPECT_EQ(plans[number - 1].number(), number);
    EXPECT_EQ(plans[number - 1].admissions(0).id(), number);
  }
  EXPECT_FALSE(Turn(*source));  // after the end it only says that it is over
}

TEST(RunLinkTest, PlansWaitForTheAnswerAndStayInTheStreamIfItIsNo) {
  absl::Notification offered, put;
  ScriptedVerifier verifier([&](Stream& stream) {
    stream.Write(HelloWithSocket());
    v1::RunRequest request;
    EXPECT_TRUE(stream.Read(&request) && request.has_hello());
    EXPECT_TRUE(stream.Read(&request) && request.has_socket());
    offered.Notify();
    put.WaitForNotification();
    v1::RunResponse answer;
    answer.mutable_socket()->set_connected(false);
    stream.Write(answer);
    EXPECT_TRUE(stream.Read(&request));
    EXPECT_EQ(request.plan().number(), 1u);
    EXPECT_EQ(request.plan().admissions_size(), 2);  // what waited has become one
    stream.Write(NumberedReport(1));
    while (stream.Read(&request)) {
    }
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewRunLink(verifier.address());
  link->Connect({}, listener);
  offered.WaitForNotification();
  for (uint64_t id = 1; id <= 2; ++id) {
    Plan plan;
    plan.admissions.emplace_back().id = id;
    EXPECT_EQ(link->SendPlan(std::move(plan)), 1u);
  }
  put.Notify();
  EXPECT_THAT(
      listener.Await(3),
      ::testing::ElementsAre("hello f", "fallback: the verifier cannot reach the socket", "report 1"));
}

TEST(RunLinkTest, NoSocketIsOfferedWhereItIsNotWanted) {
  ScriptedVerifier verifier([](Stream& stream) {
    stream.Write(HelloWithSocket());
    v1::RunRequest request;
    EXPECT_TRUE(stream.Read(&request) && request.has_hello());
    EXPECT_TRUE(stream.Read(&request) && request.has_plan());
    return grpc::Status::OK;
  });
  RecordingListener listener;
  const auto link = NewRunLink(verifier.address(), {.channel = {}, .local_socket = false});
  link->Connect({}, listener);
  listener.Await(1);
  link->SendPlan({});
  EXPECT_THAT(listener.Await(2), ::testing::ElementsAre("hello f", "closed UNAVAILABLE"));
}

TEST(RunLinkTest, WhatIsWrongWithASocketEndsTheStream) {
  struct Case {
    std::string end;
    std::function<void(Stream&)> act;
  };
  const auto by_socket = [](std::function<void(rpc::MessageSocket&)> act) {
    return [act = std::move(act)](Stream& stream) {
      const auto socket = TakeSocket(stream);
      act(*socket);
      v1::RunRequest request;
      while (stream.Read(&request)) {
      }
    };
  };
  const std::vector<Case> cases{
      {"closed INVALID_ARGUMENT",
       by_socket([](rpc::MessageSocket& s) { EXPECT_TRUE(s.Send("\xff\xff garbage").ok()); })},
      {"closed INVALID_ARGUMENT",
       by_socket([](rpc::MessageSocket& s) { EXPECT_EQ(write(s.fd(), "\xff\xff\xff\xff", 4), 4); })},
      {"closed UNAVAILABLE", by_socket([](rpc::MessageSocket& s) { shutdown(s.fd(), SHUT_RDWR); })},
      {"closed INVALID_ARGUMENT",
       [](Stream& stream) {
         const auto socket = TakeSocket(stream);
         stream.Write(NumberedReport(1));
         v1::RunRequest request;
         while (stream.Read(&request)) {
         }
       }},
      {"closed UNAVAILABLE",  // it says that it has connected, and has not
       [](Stream& stream) {
         v1::RunResponse answer;
         answer.mutable_socket()->set_connected(true);
         v1::RunRequest request;
         stream.Read(&request);
         stream.Read(&request);
         stream.Write(answer);
         while (stream.Read(&request)) {
         }
       }},
      {"closed INVALID_ARGUMENT",
       [](Stream& stream) {  // nobody has offered another
         const auto socket = TakeSocket(stream);
         v1::RunResponse answer;
         answer.mutable_socket()->set_connected(true);
         stream.Write(answer);
         v1::RunRequest request;
         while (stream.Read(&request)) {
         }
       }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    ScriptedVerifier verifier([&](Stream& stream) {
      stream.Write(HelloWithSocket());
      cases[i].act(stream);
      return grpc::Status::OK;
    });
    RecordingListener listener;
    const auto link = NewRunLink(verifier.address());
    link->Connect({}, listener);
    if (listener.Await(2)[1] == "source") {
      const std::shared_ptr<MessageSource> source = listener.source();
      if (i < 3) {
        EXPECT_FALSE(Turn(*source)) << i;
      }
      listener.Await(3);
    }
    EXPECT_EQ(listener.Await(2).back(), cases[i].end) << i;
  }
}

TEST(RunLinkTest, DestructionEndsAnOpenStreamAndIsTheLastThingTheListenerHears) {
  ScriptedVerifier verifier([](Stream& stream) {
    uint64_t number = 0;
    stream.Write(Hello());
    while (stream.Write(NumberedReport(++number))) {
    }
    return grpc::Status::OK;
  });
  for (int i = 0; i < 10; ++i) {
    auto listener = std::make_unique<RecordingListener>();
    auto link = NewRunLink(verifier.address());
    link->Connect({}, *listener);
    listener->Await(5);
    for (int p = 0; p < 5; ++p) link->SendPlan({});
    link.reset();
    const auto events = listener->Await(6);
    EXPECT_EQ(events.back(), "closed CANCELLED");
  }
}

}  // namespace
}  // namespace tandem::gateway
