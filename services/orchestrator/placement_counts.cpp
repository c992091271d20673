// A layer of R replicas cannot be faster than f(R) = max(mean, the smallest possible load of the
// most loaded replica), which greedy replication reaches. The sum of the f over layers is bounded
// by their lower convex hulls, whose steps are bought in the order of their slopes.
#include "services/orchestrator/placement_counts.hpp"

#include <algorithm>
#include <numeric>

namespace fulgur::orchestrator {
namespace {

double mean_time(const PlacementProblem& problem, std::uint32_t layer) {
  const auto first = problem.load.begin() + static_cast<std::ptrdiff_t>(problem.cell(layer, 0));
  return std::accumulate(first, first + problem.shape.experts, 0.0) / problem.speed_sum;
}

/// Replicates one layer's most loaded expert again and again.
class LayerCounts {
 public:
  LayerCounts(const PlacementProblem& problem, const std::vector<double>& speed_of,
              std::uint32_t layer)
      : problem_(problem),
        speed_of_(speed_of),
        layer_(layer),
        counts_(problem.shape.experts, problem.floor) {}

  const std::vector<std::uint32_t>& counts() const { return counts_; }
  std::uint32_t worst() const {
    std::uint32_t worst = 0;
    for (std::uint32_t expert = 1; expert < counts_.size(); ++expert)
      if (height(expert) > height(worst)) worst = expert;
    return worst;
  }
  double worst_height() const { return height(worst()); }
  bool grow() {
    const std::uint32_t expert = next();
    if (counts_[expert] >= problem_.slots.size()) return false;
    ++counts_[expert];
    return true;
  }

 private:
  double height(std::uint32_t expert) const {
    return problem_.load[problem_.cell(layer_, expert)] / speed_of_[counts_[expert]];
  }
  /// The worst that can still grow, or any that cannot when none can.
  std::uint32_t next() const {
    std::uint32_t best = 0;
    const auto key = [&](std::uint32_t expert) {
      return counts_[expert] < problem_.slots.size() ? height(expert) : -1.0;
    };
    for (std::uint32_t expert = 1; expert < counts_.size(); ++expert)
      if (key(expert) > key(best)) best = expert;
    return best;
  }

  const PlacementProblem& problem_;
  const std::vector<double>& speed_of_;
  std::uint32_t layer_;
  std::vector<std::uint32_t> counts_;
};

/// A step down a layer's convex hull.
struct Step {
  std::uint32_t layer;
  std::uint64_t replicas;
  double gain;
  double slope() const { return gain / static_cast<double>(replicas); }
};

/// Appends the hull of bounds[0], bounds[1], … (by spare replicas) as steps.
void append_hull(std::uint32_t layer, const std::vector<double>& bounds, std::vector<Step>& steps) {
  for (std::size_t at = 0; at + 1 < bounds.size();) {
    Step best{layer, 1, bounds[at] - bounds[at + 1]};
    for (std::size_t to = at + 2; to < bounds.size(); ++to) {
      const Step step{layer, to - at, bounds[at] - bounds[to]};
      if (step.slope() >= best.slope()) best = step;
    }
    if (best.gain <= 0) return;
    steps.push_back(best);
    at += best.replicas;
  }
}

/// The counts and bounds with `extra` spare replicas in each layer.
ReplicaCounts grow_layers(const PlacementProblem& problem, const std::vector<double>& speed_of,
                          const std::vector<std::uint64_t>& extra) {
  ReplicaCounts result;
  for (std::uint32_t layer = 0; layer < extra.size(); ++layer) {
    LayerCounts grown(problem, speed_of, layer);
    for (std::uint64_t i = 0; i < extra[layer]; ++i) grown.grow();
    result.counts.insert(result.counts.end(), grown.counts().begin(), grown.counts().end());
    result.layer_bound.push_back(std::max(mean_time(problem, layer), grown.worst_height()));
  }
  return result;
}

/// Buys steps in the order of their slopes and lowers `sum` by what they gain, the last one in
/// part: a lower bound. What is left when the next one is too large goes round.
std::vector<std::uint64_t> buy(const std::vector<Step>& steps, std::uint64_t spare,
                               std::uint32_t layers, double& sum) {
  std::vector<std::uint64_t> extra(layers);
  double left = static_cast<double>(spare);
  for (const Step& step : steps) {
    const double part = std::min(1.0, left / static_cast<double>(step.replicas));
    sum -= part * step.gain;
    left -= part * static_cast<double>(step.replicas);
    if (part < 1.0) break;
    extra[step.layer] += step.replicas;
    spare -= step.replicas;
  }
  // More, smaller replicas pack better.
  for (; spare > 0; --spare) ++*std::min_element(extra.begin(), extra.end());
  return extra;
}

double sum_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

/// Speed of the fastest n slots together, by n.
std::vector<double> speeds_of_fastest(const PlacementProblem& problem) {
  std::vector<double> speeds(problem.slots.size() + 1);
  for (std::size_t i = 0; i < problem.slots.size(); ++i) speeds[i + 1] = problem.slots[i].speed;
  std::sort(speeds.begin() + 1, speeds.end(), std::greater<>());
  std::partial_sum(speeds.begin(), speeds.end(), speeds.begin());
  return speeds;
}

}  // namespace

CountPlan plan_counts(const PlacementProblem& problem) {
  const std::uint32_t layers = problem.shape.layers;
  const auto speed_of = speeds_of_fastest(problem);
  const std::uint64_t spare = problem.budget - problem.shape.cells() * problem.floor;
  std::vector<Step> steps;
  double bound_sum = 0;
  double mean_sum = 0;
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    const double mean = mean_time(problem, layer);
    LayerCounts grown(problem, speed_of, layer);
    std::vector<double> bounds{std::max(mean, grown.worst_height())};
    while (bounds.size() <= spare && bounds.back() > mean && grown.grow())
      bounds.push_back(std::max(mean, grown.worst_height()));
    append_hull(layer, bounds, steps);
    bound_sum += bounds.front();
    mean_sum += mean;
  }
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.slope() > b.slope(); });
  std::vector<std::uint64_t> equal(layers, spare / layers);
  for (std::uint64_t layer = 0; layer < spare % layers; ++layer) ++equal[layer];

  CountPlan plan;
  plan.best = grow_layers(problem, speed_of, buy(steps, spare, layers, bound_sum));
  plan.equal = grow_layers(problem, speed_of, equal);
  // Steps are large at times, and what could not be bought any more is spent badly.
  if (sum_of(plan.equal.layer_bound) < sum_of(plan.best.layer_bound)) plan.best = plan.equal;
  plan.bound = mean_sum > 0 ? std::max(1.0, bound_sum / mean_sum) : 1.0;
  return plan;
}

}  // namespace fulgur::orchestrator
