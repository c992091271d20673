// A layer of R replicas cannot be faster than f(R) = max(mean, the smallest possible load of the
// most loaded replica), which greedy replication reaches. The sum of the f over layers is bounded
// by their lower convex hulls, whose steps are bought in the order of their slopes.
#include "services/orchestrator/placement_counts.hpp"

#include <algorithm>
#include <numeric>

namespace fulgur::orchestrator {
namespace {

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

}  // namespace

ReplicaCounts plan_counts(const PlacementProblem& problem) {
  const std::uint32_t layers = problem.shape.layers;
  const std::uint32_t experts = problem.shape.experts;
  std::vector<double> speed_of(problem.slots.size() + 1);  // of the fastest n
  for (std::size_t i = 0; i < problem.slots.size(); ++i) speed_of[i + 1] = problem.slots[i].speed;
  std::sort(speed_of.begin() + 1, speed_of.end(), std::greater<>());
  std::partial_sum(speed_of.begin(), speed_of.end(), speed_of.begin());

  const std::uint64_t spare_all = problem.budget - problem.shape.cells() * problem.floor;
  std::uint64_t spare = spare_all;
  ReplicaCounts plan;
  std::vector<Step> steps;
  std::vector<std::vector<double>> bounds(layers);
  double mean_sum = 0;
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    const auto* first = &problem.load[problem.cell(layer, 0)];
    const double mean = std::accumulate(first, first + experts, 0.0) / problem.speed_sum;
    mean_sum += mean;
    LayerCounts grown(problem, speed_of, layer);
    bounds[layer].push_back(std::max(mean, grown.worst_height()));
    for (std::uint64_t more = 0; more < spare && bounds[layer].back() > mean; ++more) {
      if (!grown.grow()) break;
      bounds[layer].push_back(std::max(mean, grown.worst_height()));
    }
    append_hull(layer, bounds[layer], steps);
  }
  std::stable_sort(steps.begin(), steps.end(),
                   [](const Step& a, const Step& b) { return a.slope() > b.slope(); });
  std::vector<std::uint64_t> extra(layers);
  double sum = 0;
  for (const auto& layer : bounds) sum += layer.front();
  double left = static_cast<double>(spare);
  for (const Step& step : steps) {
    const double part = std::min(1.0, left / static_cast<double>(step.replicas));
    sum -= part * step.gain;
    left -= part * static_cast<double>(step.replicas);
    if (part < 1.0) continue;
    extra[step.layer] += step.replicas;
    spare -= step.replicas;
  }
  plan.bound = mean_sum > 0 ? std::max(1.0, sum / mean_sum) : 1.0;

  // What is left goes round: more, smaller replicas pack better.
  while (spare > 0) {
    const auto least = std::min_element(extra.begin(), extra.end());
    if (*least >= std::uint64_t{experts} * (problem.slots.size() - problem.floor)) break;
    ++*least;
    --spare;
  }
  for (std::uint32_t layer = 0; layer < layers; ++layer) {
    LayerCounts grown(problem, speed_of, layer);
    for (std::uint64_t i = 0; i < extra[layer]; ++i) grown.grow();
    plan.counts.insert(plan.counts.end(), grown.counts().begin(), grown.counts().end());
    const auto* first = &problem.load[problem.cell(layer, 0)];
    plan.layer_bound.push_back(std::max(
        std::accumulate(first, first + experts, 0.0) / problem.speed_sum, grown.worst_height()));
    LayerCounts equal(problem, speed_of, layer);
    const std::uint64_t share = spare_all / layers + (layer < spare_all % layers ? 1 : 0);
    for (std::uint64_t i = 0; i < share; ++i) equal.grow();
    plan.equal.insert(plan.equal.end(), equal.counts().begin(), equal.counts().end());
  }
  return plan;
}

}  // namespace fulgur::orchestrator
