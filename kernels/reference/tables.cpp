// Host-side tables shared by the backends: see tables.hpp.
#include "kernels/reference/tables.hpp"

#include <cmath>

namespace fulgur::kernels {

std::vector<float> decay_powers(const std::vector<float>& rates) {
  std::vector<float> powers;
  powers.reserve(rates.size() * (kLightningBlock + 1));
  for (const float rate : rates) {
    for (std::uint32_t n = 0; n <= kLightningBlock; ++n) {
      powers.push_back(static_cast<float>(std::exp(-static_cast<double>(rate) * n)));
    }
  }
  return powers;
}

std::vector<float> rotary_frequencies(double theta, std::uint32_t rotary_dim) {
  std::vector<float> frequencies(rotary_dim / 2);
  for (std::uint32_t j = 0; j < frequencies.size(); ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(rotary_dim);
    const auto power =
        static_cast<float>(std::pow(static_cast<double>(static_cast<float>(theta)), exponent));
    frequencies[j] = 1.0F / power;
  }
  return frequencies;
}

void rotary_angles(const float* frequencies, std::size_t count, std::uint64_t position,
                   float* cosine, float* sine) {
  for (std::size_t j = 0; j < count; ++j) {
    const float angle = static_cast<float>(position) * frequencies[j];
    cosine[j] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sine[j] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

void select_experts(float* exps, std::uint32_t experts_total, std::uint32_t k,
                    std::uint16_t* experts, float* weights) {
  constexpr float kTaken = -1.0F;
  float total = 0;
  for (std::uint32_t e = 0; e < experts_total; ++e) total += exps[e];
  for (std::uint32_t e = 0; e < experts_total; ++e) exps[e] /= total;
  float chosen_total = 0;
  for (std::uint32_t slot = 0; slot < k; ++slot) {
    std::uint32_t best = experts_total;
    for (std::uint32_t e = 0; e < experts_total; ++e) {
      if (exps[e] == kTaken) continue;
      if (best == experts_total || exps[e] > exps[best]) best = e;
    }
    experts[slot] = static_cast<std::uint16_t>(best);
    weights[slot] = exps[best];
    chosen_total += exps[best];
    exps[best] = kTaken;
  }
  for (std::uint32_t slot = 0; slot < k; ++slot) weights[slot] /= chosen_total;
}

}  // namespace fulgur::kernels
