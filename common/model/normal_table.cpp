#include "common/model/normal_table.hpp"

namespace fulgur::model {
namespace {

/// exp(-y) for y in [0, 16]: a Taylor sum of exp(-y/1024) squared ten times.
double exp_minus(double y) {
  const double x = -y / 1024;
  double value = 1 + x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5))));
  for (int i = 0; i < 10; ++i) value *= value;
  return value;
}

double density(double x) { return exp_minus(x * x / 2) * 0.3989422804014326779; }

}  // namespace

const NormalTable& NormalTable::instance() {
  static const NormalTable kTable;
  return kTable;
}

/// Walks the upper half of the distribution in small steps (Simpson's rule) and notes where the
/// cumulative probability passes each quantile; the lower half is its mirror image.
NormalTable::NormalTable() : quantiles_(kSize) {
  constexpr double kStep = 1.0 / 8192;
  constexpr std::size_t kHalf = kSize / 2;
  double x = 0;
  double probability = 0.5;
  double left = density(0);
  std::size_t index = kHalf;
  while (index < kSize && x < 5) {
    const double right = density(x + kStep);
    const double gain = kStep / 6 * (left + 4 * density(x + kStep / 2) + right);
    for (; index < kSize; ++index) {
      const double target = (static_cast<double>(index) + 0.5) / kSize;
      if (target > probability + gain) break;
      quantiles_[index] = x + kStep * (target - probability) / gain;
      quantiles_[kSize - 1 - index] = -quantiles_[index];
    }
    probability += gain;
    x += kStep;
    left = right;
  }
}

}  // namespace fulgur::model
