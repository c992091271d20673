// Small tables that every backend computes on the host with the same code, so that their bits are
// equal: powers of the lightning decay, rotary frequencies and angles, choice of experts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels {

/// exp(-r n) for n = 0 .. kLightningBlock and each head: [heads, kLightningBlock + 1].
std::vector<float> decay_powers(const std::vector<float>& rates);

/// Frequencies theta^(-2 j / rotary_dim), j = 0 .. rotary_dim / 2 - 1, in float32 as checkpoints'
/// own code forms them.
std::vector<float> rotary_frequencies(double theta, std::uint32_t rotary_dim);

/// cosine and sine [count] of float32(position) * frequency, the angle being formed in float32.
void rotary_angles(const float* frequencies, std::size_t count, std::uint64_t position,
                   float* cosine, float* sine);

/// From exp(logit - max) of all experts: the k of largest probability (ties: lower id first) by
/// descending probability and their probabilities divided by their sum. `exps` is overwritten.
void select_experts(float* exps, std::uint32_t experts_total, std::uint32_t k,
                    std::uint16_t* experts, float* weights);

}  // namespace fulgur::kernels
