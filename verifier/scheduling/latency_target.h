// A sequence that was promised a time per output token: how fast its next steps have to be, and the drafts
// that it takes to be so fast.
//
// With a window of w drafts the sequence moves on by 1 + a_1 + ... + a_w tokens in the time of a step: its
// pace is the quotient, in seconds per token. The pace that is wanted follows from the target and from what
// it has had so far, with the arrears spread over the next tokens:
//
//   wanted = target - (elapsed - target * tokens) / kRepayTokens     within kMostHaste of the target
//
// A window is lengthened beyond what pays for all only while the pace is above the wanted one, to the first
// window that brings it there; where none does, to the one of the best pace, since the promise is missed by
// least there. A draft that would not speed up its own sequence is never taken, so the others pay no more
// for a target than its owner gains.
//
// Pure functions.
#pragma once

#include <functional>
#include <span>

namespace tandem::verifier {

// Tokens over which a sequence that is late, or early, is brought back to its target.
inline constexpr double kRepayTokens = 16;
// Wanted paces lie between the target divided by this and the target times this.
inline constexpr double kMostHaste = 2;

// Seconds per token that the next steps of a sequence should take which has had `num_tokens` in
// `elapsed_seconds`; target_seconds > 0.
double WantedPace(double target_seconds, double elapsed_seconds, double num_tokens);

// The window that a sequence needs: at least `window`, at most survivals.size() and at most `window` plus
// `max_more`. seconds_with(n): time of the step, its drafting included, with n drafts more than now.
// `no_look_ahead`: whether a draft is taken hangs on its own survival and those before it (rejection rule).
int WindowForPace(double wanted_pace, std::span<const double> survivals, int window, int max_more,
                  bool no_look_ahead, const std::function<double(int)>& seconds_with);

}  // namespace tandem::verifier
