#include "common/speculation/hello_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace tandem::speculation {
namespace {

using ::testing::Contains;

VerifierHello Verifier() {
  VerifierHello hello;
  hello.protocol_major = 1;
  hello.sampling_version = 1;
  hello.target_fingerprint = "f00d";
  hello.vocab_size = 100;
  hello.hidden_size = 64;
  hello.num_layers = 8;
  hello.max_model_len = 128;
  return hello;
}

DrafterHello Drafter() {
  DrafterHello hello;
  hello.protocol_major = 1;
  hello.sampling_version = 1;
  hello.vocab_size = 100;
  hello.mask_token_id = 99;
  hello.hidden_size = 64;
  hello.num_target_layers = 8;
  hello.row_width = 64;
  hello.taps = {-1, 3, 7};
  hello.block_size = 7;
  return hello;
}

TEST(HelloFit, EqualNumbersFit) {
  EXPECT_TRUE(CheckHellos(Verifier(), Drafter()).status.ok());
  EXPECT_EQ(CheckHellos(Verifier(), Drafter()).field, "");
}

TEST(HelloFit, ADrafterThatDependsOnNothingFits) {
  DrafterHello drafter = Drafter();
  drafter.hidden_size = drafter.num_target_layers = drafter.row_width = 0;
  drafter.taps.clear();
  drafter.mask_token_id = -1;
  EXPECT_TRUE(CheckHellos(Verifier(), drafter).status.ok());
}

TEST(HelloFit, EveryFieldThatDiffersIsNamedWithBothValues) {
  struct Case {
    const char* field;
    std::function<void(VerifierHello&, DrafterHello&)> change;
    const char* message;
  };
  const std::vector<Case> cases{
      {"protocol", [](auto&, auto& d) { d.protocol_major = 2; },
       "hello.protocol differs: verifier 1.0, drafter 2.0"},
      {"sampling_version", [](auto& v, auto&) { v.sampling_version = 3; },
       "hello.sampling_version differs: verifier 3, drafter 1"},
      {"acceptance", [](auto& v, auto&) { v.acceptance = AcceptanceMode::kRejection; },
       "hello.acceptance differs: verifier rejection, drafter coupled"},
      {"top_m", [](auto& v, auto&) { v.top_m = 8; }, "hello.top_m differs: verifier 8, drafter 0"},
      {"vocab_size", [](auto&, auto& d) { d.vocab_size = 101; },
       "hello.vocab_size differs: verifier 100, drafter 101"},
      {"hidden_size", [](auto&, auto& d) { d.hidden_size = 32; },
       "hello.hidden_size differs: verifier 64, drafter 32"},
      {"num_layers", [](auto& v, auto&) { v.num_layers = 9; },
       "hello.num_layers differs: verifier 9, drafter 8"},
      {"taps", [](auto&, auto& d) { d.num_target_layers = 0, d.taps.back() = 8; },
       "hello.taps differs: verifier 8 layers, drafter tap 8"},
      {"mask_token", [](auto&, auto& d) { d.mask_token_id = 100; },
       "hello.mask_token differs: verifier 100 ids, drafter id 100"},
      {"transport", [](auto&, auto& d) { d.transport = RowTransport::kSharedMemory; },
       "hello.transport differs: verifier inline, drafter shm"},
      {"local_socket", [](auto&, auto& d) { d.local_socket = true; },
       "hello.local_socket differs: verifier none, drafter one"},
  };
  for (const Case& c : cases) {
    VerifierHello verifier = Verifier();
    DrafterHello drafter = Drafter();
    c.change(verifier, drafter);
    const HelloMismatch mismatch = CheckHellos(verifier, drafter);
    EXPECT_EQ(mismatch.field, c.field);
    EXPECT_EQ(mismatch.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(mismatch.status.message(), c.message);
    EXPECT_THAT(HelloFields(), Contains(mismatch.field));
  }
  EXPECT_EQ(HelloFields().size(), cases.size());
}

TEST(HelloFit, AnotherFingerprintIsNoMismatchButSaid) {
  DrafterHello drafter = Drafter();
  EXPECT_FALSE(FingerprintsDiffer(Verifier(), drafter));
  drafter.target_fingerprint = "f00d";
  EXPECT_FALSE(FingerprintsDiffer(Verifier(), drafter));
  drafter.target_fingerprint = "beef";
  EXPECT_TRUE(FingerprintsDiffer(Verifier(), drafter));
  EXPECT_TRUE(CheckHellos(Verifier(), drafter).status.ok());
}

}  // namespace
}  // namespace tandem::speculation
