// Limits and defaults of the gateway, in one place; docs/api.md lists them for operators. A limit that a flag
// can change is the flag's default here.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace tandem::gateway::limits {

// --- What a client may send
// -----------------------------------------------------------------------------------
inline constexpr int64_t kHttpBodyBytes = 2 << 20;
inline constexpr int64_t kGrpcReceiveBytes = 4 << 20;
inline constexpr int kHttpHeaderCount = 100;
inline constexpr int64_t kHttpHeaderLineBytes = 8 << 10;
inline constexpr int64_t kHttpHeaderBytes = 16 << 10;
inline constexpr int64_t kGrpcMetadataBytes = 16 << 10;
inline constexpr int kJsonDepth = 32;
inline constexpr int kJsonKeys = 4096;
inline constexpr int64_t kApiKeyBytes = 512;
inline constexpr int64_t kRequestIdBytes = 128;  // of [A-Za-z0-9._-]; anything else is replaced
inline constexpr int64_t kTraceparentBytes = 55;
inline constexpr int64_t kTracestateBytes = 512;
inline constexpr int64_t kModelNameBytes = 256;

inline constexpr int kMessages = 1024;
inline constexpr int64_t kPromptBytesPerToken = 8;  // longer than this x context is refused untokenised
inline constexpr int kChoicesPerPrompt = 8;
inline constexpr int kChoicesPerRequest = 32;  // prompts x n
inline constexpr int kStopTexts = 4;
inline constexpr int64_t kStopTextBytes = 256;
inline constexpr int kStopTokenIds = 16;
inline constexpr int kLogprobs = 20;
inline constexpr int kLogprobsCompletions = 5;
inline constexpr int kLogitBiases = 1024;
inline constexpr double kLogitBias = 100;
inline constexpr double kTemperature = 2;
inline constexpr double kMinRepetitionPenalty = 0.1;
inline constexpr double kMaxRepetitionPenalty = 10;
inline constexpr double kPenalty = 2;  // frequency and presence, either sign
inline constexpr int kPriority = 4;    // either sign
inline constexpr double kTpotTargetMs = 60'000;
inline constexpr int64_t kCompletionsMaxTokens = 16;  // default of /v1/completions

// --- What the gateway answers
// ---------------------------------------------------------------------------------
inline constexpr int64_t kErrorValueBytes = 64;  // of a client's value inside a message
inline constexpr int64_t kErrorMessageBytes = 1 << 10;
inline constexpr int64_t kErrorDetailsBytes = 4 << 10;
inline constexpr absl::Duration kMinRetryAfter = absl::Seconds(1);
inline constexpr absl::Duration kMaxRetryAfter = absl::Seconds(60);
inline constexpr int64_t kEarlyAnswerDrainBytes = 32 << 20;  // read and dropped after an early 413 or 401
inline constexpr absl::Duration kEarlyAnswerDrain = absl::Seconds(5);
inline constexpr absl::Duration kSsePing = absl::Seconds(15);

// --- Queue
// ----------------------------------------------------------------------------------------------------
inline constexpr int kQueuePerSequenceSlot = 4;  // x sequences that the verifiers hold at once
inline constexpr int kMinQueue = 64;
inline constexpr absl::Duration kPredictedWait = absl::Seconds(10);
inline constexpr double kMemoryShare = 0.9;                            // in use: new requests are refused
inline constexpr int kRequestsPerKey = 256;                            // waiting and running
inline constexpr absl::Duration kRequestDeadline = absl::Minutes(10);  // also caps what a client asks for

// --- Verifiers
// ------------------------------------------------------------------------------------------------
inline constexpr absl::Duration kLostVerifierWait = absl::Seconds(30);  // of a started sequence
inline constexpr absl::Duration kNoVerifierWait = absl::Seconds(3);     // of a new request
inline constexpr absl::Duration kMinReconnect = absl::Milliseconds(100);
inline constexpr absl::Duration kMaxReconnect = absl::Seconds(5);
inline constexpr absl::Duration kMismatchReconnect = absl::Seconds(30);
inline constexpr int kSequencesPerVerifier = 1024;  // of this gateway; also bounds the admissions of one plan
inline constexpr int kStopIdsPerSequence = 64;      // stop_token_ids and EOS ids together

// --- Connections
// ----------------------------------------------------------------------------------------------
inline constexpr int kGrpcStreamsPerConnection = 100;
inline constexpr double kConnectionsShareOfDescriptors = 0.8;
inline constexpr int kMinDescriptors = 4096;
inline constexpr absl::Duration kHandshake = absl::Seconds(5);
inline constexpr absl::Duration kHttpHeaders = absl::Seconds(10);
inline constexpr absl::Duration kHttpBody = absl::Seconds(30);
inline constexpr absl::Duration kHttpIdle = absl::Seconds(60);
inline constexpr absl::Duration kGrpcIdle = absl::Minutes(5);
inline constexpr absl::Duration kGrpcAge = absl::Minutes(30);
inline constexpr absl::Duration kGrpcGrace = absl::Minutes(10);
inline constexpr absl::Duration kWriteStall = absl::Seconds(30);
inline constexpr int64_t kStreamBufferBytes = 16 << 20;  // waiting for one request's slow client
inline constexpr int64_t kWholeAnswerBytes = 64 << 20;
inline constexpr int kMetricsThreads = 8;
inline constexpr absl::Duration kMetricsTimeout = absl::Milliseconds(1500);

// --- Stop
// -----------------------------------------------------------------------------------------------------
inline constexpr absl::Duration kDrainDelay = absl::Seconds(5);
inline constexpr absl::Duration kDrain = absl::Seconds(30);

}  // namespace tandem::gateway::limits
