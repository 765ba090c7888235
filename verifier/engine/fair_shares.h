// Max-min fair division of a number of equal things among those who want some.
//
// Everybody gets the same, except that nobody gets more than it wants and what is thereby left over goes to
// the others in equal parts. Pure functions.
#pragma once

#include <cstdint>
#include <span>

namespace tandem::verifier {

// grants[i] <= demands[i], of `capacity` in all. What does not divide evenly goes one each to the first
// unsatisfied entries from index `first` on (cyclically), so that turns can be taken. Sizes equal; grants is
// overwritten.
void DivideFairly(int64_t capacity, std::span<const int64_t> demands, size_t first,
                  std::span<int64_t> grants);

// What entry `self` would get if it wanted everything and the others what they want: its fair part plus all
// that others leave. At least 1 if capacity is.
int64_t ShareOf(size_t self, int64_t capacity, std::span<const int64_t> demands);

}  // namespace tandem::verifier
