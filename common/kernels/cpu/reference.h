// The row-wise operations as plain loops, one row at a time: what elementwise.h promises, literally. With
// GemmReference and AttentionReference the oracles of the tests.
#pragma once

#include <cstdint>
#include <span>

namespace tandem::kernels {

// elementwise.h's y of one row.
void RmsNormReference(std::span<const float> x, std::span<const float> w, float eps, std::span<float> y);
void RopeReference(std::span<float> head, std::span<const float> cos, std::span<const float> sin);
float SiluReference(float a);
float GeluReference(float a);
float SoftCapReference(float x, float cap);

// One block of Activations: returns the scale, fills q.
float QuantiseReference(std::span<const float> x, std::span<int8_t> q);

}  // namespace tandem::kernels
