// Steps 6 to 8 of the filter order: top-k, top-p and min-p, without sorting the vocabulary.
#pragma once

#include <vector>

#include "common/sampling/processed_row.h"
#include "common/sampling/row_scan.h"

namespace tandem::sampling {

// Whether any filter is on for a vocabulary of this size.
bool HasFilters(const SamplingParams& params, size_t vocab_size);

// survivors = (z, id) of the tokens that top-k, top-p and min-p leave, in no particular order; at least the
// largest. z is the processed logit before temperature.
//
// Probabilities are compared as masses e^((z - max)/T) in f32, rounded to whole multiples of 2^-42 for top-p:
// sums of integers do not depend on the order of summation, so the boundary can be found by partition and
// still falls on the same token on every machine. The loss is below 2^-43 a token, 2^-22 of the total for the
// largest vocabulary. `weights` is scratch.
void FilterRow(const ProcessedRow& row, const SamplingParams& params, std::vector<float>& weights,
               std::vector<Candidate>& survivors);

}  // namespace tandem::sampling
