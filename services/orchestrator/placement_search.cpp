// Every step takes the change with the most gain for its loads. A step only has to make the slots
// it touches faster than the slowest was, so several equally slow ones are dealt with one by one;
// steps that in the end did not lower the maximum are undone.
#include "services/orchestrator/placement_search.hpp"

#include <algorithm>
#include <numeric>

#include "common/base/rng.hpp"

namespace fulgur::orchestrator {
namespace {

constexpr double kTiny = 1e-9;             // relative: below it two times are equal
constexpr double kFreeMove = 0.25;         // loads that a change without a load is charged
constexpr std::uint64_t kTrialWork = 12;   // of a change tried, in changes looked at
constexpr std::uint32_t kPartnersMax = 4;  // fast slots looked at where all would be too many

/// The best of the changes offered.
struct Choice {
  Change change;
  double value = 0;

  static double worth(double gain, int loads) { return gain / (std::max(loads, 0) + kFreeMove); }
  bool is_beaten_by(double gain, int loads) const { return worth(gain, loads) > value; }
  void offer(const Change& candidate, double gain, int loads) {
    if (!is_beaten_by(gain, loads)) return;
    value = worth(gain, loads);
    change = candidate;
  }
};

/// Applied changes, to undo those that led nowhere.
class Journal {
 public:
  Journal(Layout& layout, double value) : layout_(layout), best_(value) {}
  void apply(const Change& change) {
    layout_.apply(change);
    steps_.push_back(change);
  }
  void reached(double value) {
    if (value >= best_ * (1 - kTiny)) return;
    best_ = value;
    keep_ = steps_.size();
  }
  void undo_the_rest() {
    for (; steps_.size() > keep_; steps_.pop_back()) layout_.apply(steps_.back().reversed());
  }

 private:
  Layout& layout_;
  double best_;
  std::size_t keep_ = 0;
  std::vector<Change> steps_;
};

// ---------------------------------------------------------------- a layer's slowest slot

class LayerSearch {
 public:
  LayerSearch(Layout& layout, const ReplicaCounts& counts, const SearchGoal& goal)
      : layout_(layout),
        problem_(layout.problem()),
        counts_(counts),
        goal_(goal),
        trial_(layout),
        layers_(problem_.shape.layers),
        experts_(problem_.shape.experts) {}

  /// Spends from `work`.
  void run(std::uint32_t layer, std::uint64_t& work);

 private:
  double goal_of(std::uint32_t layer) const { return counts_.layer_bound[layer] * goal_.target; }
  void descend(Journal& journal);
  void shake(Rng& rng, Journal& journal);
  std::uint32_t draw_expert(Rng& rng, std::uint32_t slot, std::uint32_t other) const;
  Change best_change();
  void consider(const Change& change, double after_min);
  double height_with_one_more(std::uint32_t expert) const;
  void consider_leaving(std::uint32_t expert);
  void consider_partner(std::uint32_t expert, std::uint32_t slot);
  void consider_dropping(std::uint32_t expert);
  void consider_double_exchanges();
  void consider_double_exchange(std::uint32_t partner);
  void consider_spares_of_other_layers();
  std::vector<std::uint32_t> fastest() const;

  Layout& layout_;
  const PlacementProblem& problem_;
  const ReplicaCounts& counts_;
  const SearchGoal& goal_;
  Trial trial_;
  const std::uint32_t layers_;
  const std::uint32_t experts_;

  std::uint32_t layer_ = 0;
  std::uint32_t slowest_ = 0;
  double slowest_time_ = 0;
  double goal_time_ = 0;
  bool shaken_ = false;  ///< changes stay within the layer
  Choice choice_;
  std::uint64_t work_left_ = 0;
};

void LayerSearch::run(std::uint32_t layer, std::uint64_t& work) {
  layer_ = layer;
  shaken_ = false;
  const std::uint64_t share = work / (layers_ - layer);
  work_left_ = share;
  goal_time_ = goal_of(layer);
  {
    Journal journal(layout_, layout_.layer_time(layer));
    descend(journal);
    journal.undo_the_rest();
  }
  shaken_ = true;
  Rng rng(layer + 1);
  for (std::uint32_t kick = 0; kick < goal_.kicks_max && work_left_ > 0; ++kick) {
    const double before = layout_.layer_time(layer);
    if (before <= goal_time_) break;
    Journal journal(layout_, before);
    shake(rng, journal);
    descend(journal);
    journal.undo_the_rest();
  }
  work -= share - work_left_;
}

void LayerSearch::descend(Journal& journal) {
  const std::uint32_t steps_max = 2 * experts_ + layout_.slots();
  for (std::uint32_t step = 0; step < steps_max; ++step) {
    slowest_ = layout_.slowest(layer_);
    slowest_time_ = layout_.time(layer_, slowest_);
    journal.reached(slowest_time_);
    if (slowest_time_ <= goal_time_) return;
    const Change change = best_change();
    if (change.count == 0) return;
    journal.apply(change);
  }
  journal.reached(layout_.layer_time(layer_));
}

/// An expert of the layer that `slot` has and `other` lacks; experts_ when none was met.
std::uint32_t LayerSearch::draw_expert(Rng& rng, std::uint32_t slot, std::uint32_t other) const {
  const auto first = static_cast<std::uint32_t>(rng.below(experts_));
  for (std::uint32_t step = 0; step < experts_; ++step) {
    const std::uint32_t expert = (first + step) % experts_;
    if (layout_.has(slot, layer_, expert) && !layout_.has(other, layer_, expert)) return expert;
  }
  return experts_;
}

/// Two exchanges, or other counts for two experts, at random.
void LayerSearch::shake(Rng& rng, Journal& journal) {
  for (int times = 0; times < 2; ++times) {
    const auto a = static_cast<std::uint32_t>(rng.below(layout_.slots()));
    const auto b = static_cast<std::uint32_t>(rng.below(layout_.slots()));
    const std::uint32_t out = draw_expert(rng, a, b);
    const std::uint32_t back = draw_expert(rng, b, a);
    if (a == b || out == experts_ || back == experts_) continue;
    const Change exchange(Edit{layer_, out, a, b}, Edit{layer_, back, b, a});
    const Change recount(Edit{layer_, out, kNoSlot, b}, Edit{layer_, back, b, kNoSlot});
    const Change& change = rng.below(2) == 0 ? exchange : recount;
    if (layout_.allows(change)) journal.apply(change);
  }
}

Change LayerSearch::best_change() {
  choice_ = {};
  for (std::uint32_t expert = 0; expert < experts_; ++expert)
    if (layout_.has(slowest_, layer_, expert)) consider_leaving(expert);
  if (choice_.change.count == 0) consider_double_exchanges();
  if (choice_.change.count == 0 && !shaken_) consider_spares_of_other_layers();
  return choice_.change;
}

/// `after_min` is a time that some touched slot will need at least: what cannot be the best change
/// is not tried.
void LayerSearch::consider(const Change& change, double after_min) {
  if (work_left_ == 0) return;
  --work_left_;
  const int loads = layout_.loads(change);
  if (problem_.equal_speeds) {
    if (after_min >= slowest_time_) return;
    if (!choice_.is_beaten_by(slowest_time_ - std::max(after_min, goal_time_), loads)) return;
  }
  if (!layout_.allows(change)) return;
  work_left_ -= std::min(work_left_, kTrialWork);
  if (loads > 0 && layout_.missing() + static_cast<unsigned>(loads) > goal_.missing_max) return;
  trial_.run(change);
  const double after = trial_.slowest_touched(0);
  if (after >= slowest_time_ * (1 - kTiny)) return;
  double gain = slowest_time_ - std::max(after, goal_time_);
  if (change.count == 2 && change.edits[1].layer != layer_) {
    // A spare replica taken from another layer: what that layer loses counts against it.
    const std::uint32_t other = change.edits[1].layer;
    gain -= std::max(0.0, std::max(trial_.slowest_touched(1), goal_of(other)) -
                              std::max(layout_.layer_time(other), goal_of(other)));
  }
  choice_.offer(change, gain, loads);
}

void LayerSearch::consider_leaving(std::uint32_t expert) {
  for (std::uint32_t slot = 0; slot < layout_.slots(); ++slot)
    if (!layout_.has(slot, layer_, expert)) consider_partner(expert, slot);
  if (layout_.count(layer_, expert) > problem_.floor) consider_dropping(expert);
}

/// For equal speeds.
double LayerSearch::height_with_one_more(std::uint32_t expert) const {
  const double count = layout_.count(layer_, expert);
  return layout_.height(layer_, expert) * count / (count + 1);
}

void LayerSearch::consider_partner(std::uint32_t expert, std::uint32_t slot) {
  const double height = layout_.height(layer_, expert);
  const double less = height - height_with_one_more(expert);
  const double here = slowest_time_;
  const double there = layout_.time(layer_, slot);
  const Edit moves{layer_, expert, slowest_, slot};
  const Edit adds{layer_, expert, kNoSlot, slot};
  if (layout_.has_room(slot)) {
    consider(Change(moves), std::max(here - height, there + height));
    consider(Change(adds), std::max(here - less, there + height - less));
  }
  for (std::uint32_t other = 0; other < experts_; ++other) {
    if (!layout_.has(slot, layer_, other)) continue;
    const double back = layout_.height(layer_, other);
    if (!layout_.has(slowest_, layer_, other))
      consider(Change(moves, Edit{layer_, other, slot, slowest_}),
               std::max(here - height + back, there + height - back));
    if (other != expert && layout_.count(layer_, other) > problem_.floor)
      consider(Change(adds, Edit{layer_, other, slot, kNoSlot}),
               std::max(here - less, there + height - less - back));
  }
}

void LayerSearch::consider_dropping(std::uint32_t expert) {
  const Edit drops{layer_, expert, slowest_, kNoSlot};
  const double left = slowest_time_ - layout_.height(layer_, expert);
  consider(Change(drops), left);
  for (std::uint32_t other = 0; other < experts_; ++other)
    if (!layout_.has(slowest_, layer_, other))
      consider(Change(drops, Edit{layer_, other, kNoSlot, slowest_}),
               left + height_with_one_more(other));
}

std::vector<std::uint32_t> LayerSearch::fastest() const {
  std::vector<std::uint32_t> slots(layout_.slots());
  std::iota(slots.begin(), slots.end(), 0U);
  std::erase(slots, slowest_);
  std::stable_sort(slots.begin(), slots.end(), [&](std::uint32_t a, std::uint32_t b) {
    return layout_.time(layer_, a) < layout_.time(layer_, b);
  });
  slots.resize(std::min<std::size_t>(slots.size(), kPartnersMax));
  return slots;
}

void LayerSearch::consider_double_exchanges() {
  for (const std::uint32_t partner : fastest()) consider_double_exchange(partner);
}

/// Two replicas for two.
void LayerSearch::consider_double_exchange(std::uint32_t partner) {
  std::vector<std::uint32_t> mine;
  std::vector<std::uint32_t> theirs;
  for (std::uint32_t expert = 0; expert < experts_; ++expert) {
    const bool here = layout_.has(slowest_, layer_, expert);
    if (here != layout_.has(partner, layer_, expert)) (here ? mine : theirs).push_back(expert);
  }
  const double here = slowest_time_;
  const double there = layout_.time(layer_, partner);
  const auto height = [&](std::uint32_t expert) { return layout_.height(layer_, expert); };
  const auto out = [&](std::uint32_t expert) { return Edit{layer_, expert, slowest_, partner}; };
  const auto in = [&](std::uint32_t expert) { return Edit{layer_, expert, partner, slowest_}; };
  for (std::size_t a = 0; a < mine.size(); ++a)
    for (std::size_t b = a + 1; b < mine.size(); ++b)
      for (std::size_t c = 0; c < theirs.size(); ++c)
        for (std::size_t d = c + 1; d < theirs.size(); ++d) {
          const double less =
              height(mine[a]) + height(mine[b]) - height(theirs[c]) - height(theirs[d]);
          consider(Change(out(mine[a]), out(mine[b]), in(theirs[c]), in(theirs[d])),
                   std::max(here - less, there + less));
        }
}

/// Another layer's spare replica makes way for one more of the slowest slot's hottest expert.
void LayerSearch::consider_spares_of_other_layers() {
  std::uint32_t hottest = experts_;
  for (std::uint32_t expert = 0; expert < experts_; ++expert)
    if (layout_.has(slowest_, layer_, expert) &&
        (hottest == experts_ || layout_.height(layer_, expert) > layout_.height(layer_, hottest)))
      hottest = expert;
  if (hottest == experts_) return;
  for (const std::uint32_t slot : fastest()) {
    if (layout_.has(slot, layer_, hottest)) continue;
    const Edit adds{layer_, hottest, kNoSlot, slot};
    const double there = layout_.time(layer_, slot) + height_with_one_more(hottest);
    const double after_min = std::max(
        slowest_time_ - layout_.height(layer_, hottest) + height_with_one_more(hottest), there);
    for (std::uint32_t layer = 0; layer < layers_; ++layer) {
      if (layer == layer_) continue;
      for (std::uint32_t other = 0; other < experts_; ++other)
        if (layout_.count(layer, other) > problem_.floor && layout_.has(slot, layer, other))
          consider(Change(adds, Edit{layer, other, slot, kNoSlot}), after_min);
    }
  }
}

// ---------------------------------------------------------------- the slowest slot in total

class TotalSearch {
 public:
  TotalSearch(Layout& layout, const ReplicaCounts& counts, const SearchGoal& goal)
      : layout_(layout),
        problem_(layout.problem()),
        goal_(goal),
        trial_(layout),
        layers_(problem_.shape.layers),
        experts_(problem_.shape.experts) {
    for (std::uint32_t layer = 0; layer < layers_; ++layer)
      limits_.push_back(
          std::max(layout.layer_time(layer), counts.layer_bound[layer] * goal.target));
    const double sum = std::accumulate(problem_.load.begin(), problem_.load.end(), 0.0);
    goal_time_ = sum / problem_.speed_sum * goal.total_target;
  }

  /// Spends from `work`.
  void run(std::uint64_t& work);

 private:
  struct Held {
    std::uint32_t layer;
    std::uint32_t expert;
    double height;
  };
  std::vector<Held> held_by(std::uint32_t slot) const;
  std::vector<std::uint32_t> fastest() const;
  void consider_pair(const std::vector<Held>& mine, std::uint32_t partner);
  void consider(const Change& change, double after_min);

  Layout& layout_;
  const PlacementProblem& problem_;
  const SearchGoal& goal_;
  Trial trial_;
  const std::uint32_t layers_;
  const std::uint32_t experts_;
  std::vector<double> limits_;  ///< what each layer's slowest slot may need
  std::uint32_t slowest_ = 0;
  double slowest_time_ = 0;
  double goal_time_ = 0;
  Choice choice_;
  std::uint64_t work_left_ = 0;
};

void TotalSearch::run(std::uint64_t& work) {
  work_left_ = work;
  const auto find_slowest = [&] {
    slowest_ = 0;
    for (std::uint32_t slot = 1; slot < layout_.slots(); ++slot)
      if (layout_.total(slot) > layout_.total(slowest_)) slowest_ = slot;
    slowest_time_ = layout_.total(slowest_);
  };
  find_slowest();
  Journal journal(layout_, slowest_time_);
  for (std::uint32_t step = 0; step < 8 * layout_.slots() && slowest_time_ > goal_time_; ++step) {
    choice_ = {};
    const auto mine = held_by(slowest_);
    for (const std::uint32_t partner : fastest()) consider_pair(mine, partner);
    if (choice_.change.count == 0) break;
    journal.apply(choice_.change);
    find_slowest();
    journal.reached(slowest_time_);
  }
  journal.undo_the_rest();
  work = work_left_;
}

std::vector<TotalSearch::Held> TotalSearch::held_by(std::uint32_t slot) const {
  std::vector<Held> held;
  for (std::uint32_t layer = 0; layer < layers_; ++layer)
    for (std::uint32_t expert = 0; expert < experts_; ++expert)
      if (layout_.has(slot, layer, expert))
        held.push_back({layer, expert, layout_.height(layer, expert)});
  return held;
}

std::vector<std::uint32_t> TotalSearch::fastest() const {
  std::vector<std::uint32_t> slots(layout_.slots());
  std::iota(slots.begin(), slots.end(), 0U);
  std::erase(slots, slowest_);
  std::stable_sort(slots.begin(), slots.end(), [&](std::uint32_t a, std::uint32_t b) {
    return layout_.total(a) < layout_.total(b);
  });
  slots.resize(std::min<std::size_t>(slots.size(), kPartnersMax));
  return slots;
}

void TotalSearch::consider_pair(const std::vector<Held>& mine, std::uint32_t partner) {
  const double here = slowest_time_;
  const double there = layout_.total(partner);
  const auto theirs = held_by(partner);
  for (const Held& out : mine) {
    if (layout_.has(partner, out.layer, out.expert)) continue;
    const Edit leaves{out.layer, out.expert, slowest_, partner};
    if (layout_.has_room(partner))
      consider(Change(leaves), std::max(here - out.height, there + out.height));
    for (const Held& back : theirs) {
      const double less = out.height - back.height;
      if (problem_.equal_speeds && less <= 0) continue;
      if (layout_.has(slowest_, back.layer, back.expert)) continue;
      consider(Change(leaves, Edit{back.layer, back.expert, partner, slowest_}),
               std::max(here - less, there + less));
    }
  }
}

void TotalSearch::consider(const Change& change, double after_min) {
  if (work_left_ == 0) return;
  --work_left_;
  const int loads = layout_.loads(change);
  if (problem_.equal_speeds) {
    if (after_min >= slowest_time_) return;
    if (!choice_.is_beaten_by(slowest_time_ - std::max(after_min, goal_time_), loads)) return;
  }
  if (!layout_.allows(change)) return;
  work_left_ -= std::min(work_left_, kTrialWork);
  if (loads > 0 && layout_.missing() + static_cast<unsigned>(loads) > goal_.missing_max) return;
  trial_.run(change);
  for (std::uint32_t i = 0; i < change.count; ++i)
    if (trial_.slowest_touched(i) > limits_[change.edits[i].layer] * (1 + kTiny)) return;
  const double after = trial_.slowest_total();
  if (after >= slowest_time_ * (1 - kTiny)) return;
  choice_.offer(change, slowest_time_ - std::max(after, goal_time_), loads);
}

}  // namespace

void improve(Layout& layout, const ReplicaCounts& counts, const SearchGoal& goal,
             std::uint64_t& work) {
  std::uint64_t layer_work = work / 4 * 3;
  const std::uint64_t total_work = work - layer_work;
  LayerSearch layers(layout, counts, goal);
  for (std::uint32_t layer = 0; layer < layout.problem().shape.layers; ++layer)
    layers.run(layer, layer_work);
  work = layer_work + total_work;
  TotalSearch(layout, counts, goal).run(work);
}

void restore(Layout& layout, const ReplicaCounts& counts, const SearchGoal& goal) {
  const PlacementProblem& problem = layout.problem();
  Trial trial(layout);
  double total_limit = std::accumulate(problem.load.begin(), problem.load.end(), 0.0) /
                       problem.speed_sum * goal.total_target;
  for (std::uint32_t slot = 0; slot < layout.slots(); ++slot)
    total_limit = std::max(total_limit, layout.total(slot));
  for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer) {
    const double limit =
        std::max(layout.layer_time(layer), counts.layer_bound[layer] * goal.target);
    const auto try_change = [&](const Change& change) {
      if (layout.loads(change) >= 0 || !layout.allows(change)) return false;
      trial.run(change);
      if (trial.slowest_touched(0) > limit * (1 + kTiny)) return false;
      if (trial.slowest_total() > total_limit * (1 + kTiny)) return false;
      layout.apply(change);
      return true;
    };
    const auto bring_back = [&](std::uint32_t expert, std::uint32_t from, std::uint32_t to) {
      const Edit back{layer, expert, from, to};
      if (try_change(Change(back))) return;
      for (std::uint32_t other = 0; other < problem.shape.experts; ++other)
        if (other != expert && layout.has(to, layer, other) &&
            try_change(Change(back, Edit{layer, other, to, from})))
          return;
    };
    for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert)
      for (std::uint32_t to = 0; to < layout.slots(); ++to) {
        if (!problem.held[to].contains(layer, expert) || layout.has(to, layer, expert)) continue;
        const auto holders = layout.holders(layer, expert);
        for (const std::uint32_t from : holders)
          if (!problem.held[from].contains(layer, expert) && !layout.has(to, layer, expert))
            bring_back(expert, from, to);
      }
  }
}

}  // namespace fulgur::orchestrator
