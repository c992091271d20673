// Trial packings of one layer, without capacities beyond an equal share: cheap enough to try many
// counts. Part of placement_counts.hpp.
#include <algorithm>
#include <numeric>
#include <span>

#include "services/orchestrator/placement_counts.hpp"

namespace fulgur::orchestrator {
namespace {

constexpr std::uint32_t kShiftsMax = 6;  // of one layer
constexpr std::uint32_t kTakersMax = 8;  // experts that may get one more: those of most height
constexpr std::uint64_t kPlacedMax =
    4'000'000;  // of a replica to a slot, on paper, in all: some 10 ms

class PaperLayer {
 public:
  PaperLayer(const PlacementProblem& problem, std::uint32_t layer, std::span<std::uint32_t> counts,
             std::uint64_t& work)
      : problem_(problem), layer_(layer), counts_(counts), work_(work) {}

  /// The slowest slot's time when packed heaviest first.
  double pack();
  /// Makes the best shift of one replica that is faster than `time`; returns the new time.
  double shift(double time);

 private:
  struct Item {
    double height;
    std::uint32_t expert;
  };
  double height(std::uint32_t expert) const {
    return problem_.load[problem_.cell(layer_, expert)] / counts_[expert];
  }
  std::vector<std::uint32_t> takers() const;
  void place(const Item& item, std::uint64_t quota);

  const PlacementProblem& problem_;
  const std::uint32_t layer_;
  std::span<std::uint32_t> counts_;
  std::uint64_t& work_;
  std::vector<Item> items_;
  std::vector<double> times_;
  std::vector<std::uint64_t> used_;
  std::vector<std::uint32_t> last_;  ///< expert that a slot got last: equal ones come in a row
};

double PaperLayer::pack() {
  items_.clear();
  for (std::uint32_t expert = 0; expert < counts_.size(); ++expert)
    items_.insert(items_.end(), counts_[expert], {height(expert), expert});
  std::stable_sort(items_.begin(), items_.end(),
                   [](const Item& a, const Item& b) { return a.height > b.height; });
  const std::size_t slots = problem_.slots.size();
  times_.assign(slots, 0.0);
  used_.assign(slots, 0);
  last_.assign(slots, ~std::uint32_t{0});
  for (const Item& item : items_) place(item, (items_.size() + slots - 1) / slots);
  work_ -= std::min<std::uint64_t>(work_, items_.size());
  return *std::max_element(times_.begin(), times_.end());
}

void PaperLayer::place(const Item& item, std::uint64_t quota) {
  std::size_t best = times_.size();
  double best_time = 0;
  for (std::size_t slot = 0; slot < times_.size(); ++slot) {
    if (used_[slot] >= quota || last_[slot] == item.expert) continue;
    const double time = times_[slot] + item.height / problem_.slots[slot].speed;
    if (best != times_.size() && time >= best_time) continue;
    best = slot;
    best_time = time;
  }
  if (best == times_.size()) return;  // one replica less: the search sees to it
  times_[best] = best_time;
  ++used_[best];
  last_[best] = item.expert;
}

std::vector<std::uint32_t> PaperLayer::takers() const {
  std::vector<std::uint32_t> experts(counts_.size());
  std::iota(experts.begin(), experts.end(), 0U);
  std::stable_sort(experts.begin(), experts.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return height(a) > height(b); });
  experts.resize(std::min<std::size_t>(experts.size(), kTakersMax));
  std::erase_if(experts,
                [&](std::uint32_t expert) { return counts_[expert] >= problem_.slots.size(); });
  return experts;
}

double PaperLayer::shift(double time) {
  std::uint32_t best_giver = 0;
  std::uint32_t best_taker = 0;
  const double before = time;
  for (const std::uint32_t taker : takers())
    for (std::uint32_t giver = 0; giver < counts_.size() && work_ > 0; ++giver) {
      if (giver == taker || counts_[giver] <= problem_.floor) continue;
      --counts_[giver];
      ++counts_[taker];
      const double shifted = pack();
      ++counts_[giver];
      --counts_[taker];
      if (shifted >= time) continue;
      time = shifted;
      best_giver = giver;
      best_taker = taker;
    }
  if (time >= before) return before;
  --counts_[best_giver];
  ++counts_[best_taker];
  return time;
}

}  // namespace

void refine_counts(const PlacementProblem& problem, double target, ReplicaCounts& counts) {
  std::uint64_t work = kPlacedMax / problem.slots.size();
  for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer) {
    std::span<std::uint32_t> of_layer(&counts.counts[problem.cell(layer, 0)],
                                      problem.shape.experts);
    std::uint64_t share = work / (problem.shape.layers - layer);
    work -= share;
    PaperLayer paper(problem, layer, of_layer, share);
    double time = paper.pack();
    for (std::uint32_t step = 0; step < kShiftsMax; ++step) {
      if (time <= counts.layer_bound[layer] * target) break;
      const double shifted = paper.shift(time);
      if (shifted >= time) break;
      time = shifted;
    }
    work += share;
  }
}

}  // namespace fulgur::orchestrator
