#include "verifier/service/run_hello.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/rpc/protocol_version.h"

namespace tandem::verifier {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

RunIdentity Identity() {
  RunIdentity identity;
  identity.incarnation = NewIncarnation();
  identity.model_fingerprint = "f00d";
  identity.numerics_id = "cpu-1/f32";
  identity.tokenizer_hash = "beef";
  identity.vocab_size = 512;
  identity.eos_token_ids = {2, 3};
  identity.max_model_len = 128;
  identity.kv_block_positions = 16;
  identity.kv_total_blocks = 99;
  identity.max_sequences = 4;
  return identity;
}

v1::GatewayHello Fitting() {
  v1::GatewayHello hello;
  hello.mutable_protocol()->set_major(rpc::kProtocolMajor);
  hello.mutable_protocol()->set_minor(rpc::kProtocolMinor);
  hello.set_incarnation("0123456789abcdef");
  hello.set_sampling_version(rpc::kSamplingVersion);
  hello.set_model_fingerprint("f00d");
  hello.set_numerics_id("cpu-1/f32");
  hello.set_tokenizer_hash("beef");
  hello.set_vocab_size(512);
  return hello;
}

TEST(RunHello, SaysEverythingAboutTheVerifier) {
  const RunIdentity identity = Identity();
  const v1::VerifierHello hello = MakeHello(identity);
  EXPECT_EQ(hello.protocol().major(), rpc::kProtocolMajor);
  EXPECT_EQ(hello.sampling_version(), rpc::kSamplingVersion);
  EXPECT_EQ(hello.incarnation(), identity.incarnation);
  EXPECT_EQ(hello.model_fingerprint(), "f00d");
  EXPECT_EQ(hello.numerics_id(), "cpu-1/f32");
  EXPECT_EQ(hello.tokenizer_hash(), "beef");
  EXPECT_EQ(hello.vocab_size(), 512u);
  EXPECT_THAT(hello.eos_token_ids(), ::testing::ElementsAre(2, 3));
  EXPECT_EQ(hello.max_model_len(), 128u);
  EXPECT_EQ(hello.kv_block_positions(), 16u);
  EXPECT_EQ(hello.kv_total_blocks(), 99u);
  EXPECT_EQ(hello.max_sequences(), 4u);
  EXPECT_EQ(hello.draft_block_size(), 0u);
}

TEST(RunHello, IncarnationsAreRandomHex) {
  EXPECT_THAT(NewIncarnation(), MatchesRegex("[0-9a-f]{16}"));
  EXPECT_NE(NewIncarnation(), NewIncarnation());
}

TEST(RunHello, AGatewayThatKnowsOrDoesNotKnowUsFits) {
  EXPECT_TRUE(CheckHello(Identity(), Fitting()).status.ok());
  v1::GatewayHello first = Fitting();
  first.clear_model_fingerprint();
  first.clear_numerics_id();
  first.clear_tokenizer_hash();
  first.clear_vocab_size();
  EXPECT_TRUE(CheckHello(Identity(), first).status.ok());
  v1::GatewayHello newer = Fitting();
  newer.mutable_protocol()->set_minor(rpc::kProtocolMinor + 7);
  EXPECT_TRUE(CheckHello(Identity(), newer).status.ok());
}

TEST(RunHello, EachFieldThatDiffersIsNamedWithBothValues) {
  const std::vector<std::pair<std::string, std::function<void(v1::GatewayHello&)>>> changes{
      {"protocol", [](auto& h) { h.mutable_protocol()->set_major(9); }},
      {"incarnation", [](auto& h) { h.set_incarnation("9\n"); }},
      {"sampling_version", [](auto& h) { h.set_sampling_version(9); }},
      {"model_fingerprint", [](auto& h) { h.set_model_fingerprint("9"); }},
      {"numerics_id", [](auto& h) { h.set_numerics_id("9"); }},
      {"tokenizer_hash", [](auto& h) { h.set_tokenizer_hash("9"); }},
      {"vocab_size", [](auto& h) { h.set_vocab_size(9); }},
  };
  for (const auto& [field, change] : changes) {
    v1::GatewayHello hello = Fitting();
    change(hello);
    const HelloMismatch mismatch = CheckHello(Identity(), hello);
    EXPECT_EQ(mismatch.field, field);
    EXPECT_THAT(HelloFields(), Contains(field));
    EXPECT_EQ(mismatch.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(mismatch.status.message(), HasSubstr("hello." + field + " differs: verifier '"));
    EXPECT_THAT(mismatch.status.message(), HasSubstr("gateway '9"));
  }
  EXPECT_EQ(changes.size(), HelloFields().size());
}

}  // namespace
}  // namespace tandem::verifier
