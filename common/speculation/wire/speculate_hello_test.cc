#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "common/speculation/wire/speculate_messages.h"

namespace tandem::speculation {
namespace {

using ::testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

VerifierHello Verifier() {
  VerifierHello hello;
  hello.protocol_major = 1;
  hello.incarnation = "0123456789abcdef";
  hello.sampling_version = 1;
  hello.acceptance = AcceptanceMode::kRejection;
  hello.top_m = 8;
  hello.target_fingerprint = "f00d";
  hello.vocab_size = 100;
  hello.hidden_size = 64;
  hello.num_layers = 8;
  hello.max_model_len = 128;
  hello.row_type = RowType::kF32;
  hello.boot_id = "2b1c-77";
  hello.uid = 1000;
  hello.shared_memory = hello.local_socket = true;
  return hello;
}

DrafterHello Drafter() {
  DrafterHello hello;
  hello.protocol_major = 1;
  hello.incarnation = "fedcba9876543210";
  hello.sampling_version = 1;
  hello.algorithm = "dspark";
  hello.name = "tiny";
  hello.target_fingerprint = "f00d";
  hello.vocab_size = 100;
  hello.mask_token_id = 99;
  hello.hidden_size = 64;
  hello.num_target_layers = 8;
  hello.block_size = 2;
  hello.has_confidence = true;
  hello.row_width = 48;
  hello.taps = {-1, 3, 7};
  hello.projection_hash = std::string(64, 'a');
  hello.projection_bytes = 4 * (48 * 3 * 64 + 48);
  hello.has_norm = true;
  hello.norm_eps = 1e-6f;
  hello.calibration = {{AcceptanceMode::kCoupled, 0.7f, {{1.5f, 0.25f}, {2.0f, -1.0f}}}};
  hello.transport = RowTransport::kSharedMemory;
  hello.rows_granted = 4096;
  hello.max_sequences = 32;
  hello.max_context_rows = 120;
  hello.local_socket = true;
  return hello;
}

TEST(SpeculateHello, AVerifiersArrivesAsItLeft) {
  v1::SpeculateHello message;
  FillHello(Verifier(), message);
  const auto read = ReadHello(message);
  ASSERT_TRUE(read.ok()) << read.status();
  v1::SpeculateHello again;
  FillHello(*read, again);
  EXPECT_EQ(again.SerializeAsString(), message.SerializeAsString());
  EXPECT_EQ(read->acceptance, AcceptanceMode::kRejection);
  EXPECT_EQ(read->top_m, 8);
  EXPECT_EQ(read->row_type, RowType::kF32);
  EXPECT_TRUE(read->shared_memory);
  EXPECT_TRUE(read->local_socket);
}

TEST(SpeculateHello, ADraftersArrivesAsItLeft) {
  for (const bool rows : {true, false}) {
    DrafterHello hello = Drafter();
    if (!rows) {
      hello.row_width = 0;
      hello.taps.clear();
      hello.projection_hash.clear();
      hello.projection_bytes = 0;
      hello.has_norm = false;
      hello.mask_token_id = -1;
      hello.transport = RowTransport::kInline;
    }
    v1::DrafterHello message;
    FillHello(hello, message);
    const auto read = ReadHello(message);
    ASSERT_TRUE(read.ok()) << read.status();
    v1::DrafterHello again;
    FillHello(*read, again);
    EXPECT_EQ(again.SerializeAsString(), message.SerializeAsString());
    EXPECT_EQ(read->taps, hello.taps);
    EXPECT_EQ(read->mask_token_id, hello.mask_token_id);
    EXPECT_EQ(read->calibration.at(0).scale_bias, hello.calibration.at(0).scale_bias);
  }
}

TEST(SpeculateHello, EveryNumberOfAVerifierIsChecked) {
  const std::vector<std::pair<const char*, std::function<void(v1::SpeculateHello&)>>> cases{
      {"hello.incarnation", [](auto& m) { m.set_incarnation("xyz"); }},
      {"hello.acceptance", [](auto& m) { m.set_acceptance(v1::ACCEPTANCE_MODE_UNSPECIFIED); }},
      {"hello.acceptance", [](auto& m) { m.set_acceptance(static_cast<v1::AcceptanceMode>(77)); }},
      {"hello.top_m (rejection)", [](auto& m) { m.set_top_m(0); }},
      {"hello.top_m (rejection)", [](auto& m) { m.set_top_m(kMaxTopM + 1); }},
      {"hello.top_m (coupled)", [](auto& m) { m.set_acceptance(v1::ACCEPTANCE_MODE_COUPLED); }},
      {"hello.target_fingerprint", [](auto& m) { m.set_target_fingerprint(std::string(129, 'x')); }},
      {"hello.vocab_size", [](auto& m) { m.set_vocab_size(0); }},
      {"hello.vocab_size", [](auto& m) { m.set_vocab_size(UINT32_MAX); }},
      {"hello.hidden_size", [](auto& m) { m.set_hidden_size(0); }},
      {"hello.hidden_size", [](auto& m) { m.set_hidden_size(kMaxWidth + 1); }},
      {"hello.num_layers", [](auto& m) { m.set_num_layers(0); }},
      {"hello.num_layers", [](auto& m) { m.set_num_layers(kMaxLayers + 1); }},
      {"hello.max_model_len", [](auto& m) { m.set_max_model_len(0); }},
      {"hello.max_model_len", [](auto& m) { m.set_max_model_len(UINT32_MAX); }},
      {"hello.row_type", [](auto& m) { m.set_row_type(v1::ROW_TYPE_UNSPECIFIED); }},
      {"hello.boot_id", [](auto& m) { m.set_boot_id("new\nline"); }},
  };
  for (const auto& [field, change] : cases) {
    v1::SpeculateHello message;
    FillHello(Verifier(), message);
    change(message);
    const absl::Status status = ReadHello(message).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  }
}

TEST(SpeculateHello, EveryNumberOfADrafterIsChecked) {
  const std::vector<std::pair<const char*, std::function<void(v1::DrafterHello&)>>> cases{
      {"hello.incarnation", [](auto& m) { m.set_incarnation(""); }},
      {"hello.acceptance", [](auto& m) { m.set_acceptance(v1::ACCEPTANCE_MODE_UNSPECIFIED); }},
      {"hello.top_m", [](auto& m) { m.set_top_m(1); }},
      {"hello.algorithm", [](auto& m) { m.set_algorithm(std::string(129, 'x')); }},
      {"hello.name", [](auto& m) { m.set_name("tab\t"); }},
      {"hello.vocab_size", [](auto& m) { m.set_vocab_size(0); }},
      {"hello.mask_token_id", [](auto& m) { m.set_mask_token_id(UINT32_MAX); }},
      {"hello.hidden_size", [](auto& m) { m.set_hidden_size(UINT32_MAX); }},
      {"hello.num_target_layers", [](auto& m) { m.set_num_target_layers(UINT32_MAX); }},
      {"hello.block_size", [](auto& m) { m.set_block_size(0); }},
      {"hello.block_size", [](auto& m) { m.set_block_size(kMaxBlockSize + 1); }},
      {"hello.row_width", [](auto& m) { m.set_row_width(kMaxWidth + 1); }},
      {"hello.taps' count", [](auto& m) { m.clear_taps(); }},
      {"hello.taps' count", [](auto& m) { m.set_row_width(0); }},
      {"hello.taps", [](auto& m) { m.set_taps(0, -2); }},
      {"hello.taps", [](auto& m) { m.set_taps(1, 7); }},
      {"hello.taps", [](auto& m) { m.set_taps(2, INT32_MAX); }},
      {"hello.projection_hash", [](auto& m) { m.set_projection_hash("abc"); }},
      {"hello.projection_bytes", [](auto& m) { m.set_projection_bytes(UINT64_MAX); }},
      {"hello.projection_bytes without rows", [](auto& m) { m.set_row_width(0), m.clear_taps(); }},
      {"hello.projection_hash without rows",
       [](auto& m) { m.set_row_width(0), m.clear_taps(), m.clear_projection_bytes(); }},
      {"hello.norm_eps", [](auto& m) { m.set_norm_eps(kNaN); }},
      {"hello.norm_eps", [](auto& m) { m.set_norm_eps(-1); }},
      {"hello.calibration[0].scale's count", [](auto& m) { m.mutable_calibration(0)->add_scale(1); }},
      {"hello.calibration[0].bias' count", [](auto& m) { m.mutable_calibration(0)->clear_bias(); }},
      {"hello.calibration[0].scale and bias", [](auto& m) { m.mutable_calibration(0)->set_bias(1, kNaN); }},
      {"hello.calibration[0].temperature", [](auto& m) { m.mutable_calibration(0)->set_temperature(-1); }},
      {"hello.calibration[0].acceptance", [](auto& m) { m.mutable_calibration(0)->clear_acceptance(); }},
      {"hello.calibration's count",
       [](auto& m) {
         for (int i = 0; i < 64; ++i) m.add_calibration();
       }},
      {"hello.transport", [](auto& m) { m.set_transport(v1::ROW_TRANSPORT_UNSPECIFIED); }},
      {"hello.rows_granted", [](auto& m) { m.set_rows_granted(UINT64_MAX); }},
      {"hello.max_sequences", [](auto& m) { m.set_max_sequences(0); }},
      {"hello.max_context_rows", [](auto& m) { m.set_max_context_rows(0); }},
      {"hello.max_context_rows", [](auto& m) { m.set_max_context_rows(uint64_t{1} << 40); }},
  };
  for (const auto& [field, change] : cases) {
    v1::DrafterHello message;
    FillHello(Drafter(), message);
    change(message);
    const absl::Status status = ReadHello(message).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  }
}

}  // namespace
}  // namespace tandem::speculation
