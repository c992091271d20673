#include "services/orchestrator/placement_build.hpp"

#include <algorithm>
#include <tuple>

namespace fulgur::orchestrator {
namespace {

/// Expert by load of a replica, for one replica to place.
struct Item {
  std::uint32_t layer;
  std::uint32_t expert;
  double height;
};

/// Places one replica after the other.
class Placer {
 public:
  Placer(Layout& layout, bool plain)
      : layout_(layout),
        problem_(layout.problem()),
        plain_(plain),
        given_(layout.slots()),
        skipped_(layout.slots()) {}

  void begin_layer() { given_.assign(given_.size(), 0.0); }

  /// Puts a replica on the best slot that `limit(slot)` leaves room on; false when there is none.
  template <typename Limit>
  bool place(const Item& item, const Limit& limit) {
    // Where EPLB would put a second replica beside the first, one is as good.
    const bool may_skip = plain_ && layout_.count(item.layer, item.expert) >= problem_.floor;
    std::uint32_t best = kNoSlot;
    auto best_key = key(item, 0);
    for (std::uint32_t slot = 0; slot < layout_.slots(); ++slot) {
      if (layout_.used(slot) + skipped_[slot] >= limit(slot)) continue;
      if (layout_.has(slot, item.layer, item.expert) && !may_skip) continue;
      const auto slot_key = key(item, slot);
      if (best != kNoSlot && !(slot_key < best_key)) continue;
      best = slot;
      best_key = slot_key;
    }
    if (best == kNoSlot) return false;
    given_[best] += item.height / problem_.slots[best].speed;
    if (layout_.has(best, item.layer, item.expert))
      ++skipped_[best];
    else
      layout_.add(best, item.layer, item.expert);
    return true;
  }

  bool place(const Item& item) {
    return place(item, [&](std::uint32_t slot) { return problem_.slots[slot].limit; });
  }

  /// Where every slot with room has the expert already: another replica makes way to one of them.
  bool place_by_exchange(const Item& item);

 private:
  using Key = std::tuple<bool, double, double, bool, std::uint64_t>;
  Key key(const Item& item, std::uint32_t slot) const {
    const auto& holders = layout_.holders(item.layer, item.expert);
    const bool same_domain = std::any_of(holders.begin(), holders.end(), [&](std::uint32_t other) {
      return problem_.slots[other].domain == problem_.slots[slot].domain;
    });
    const double more = item.height / problem_.slots[slot].speed;
    if (plain_)
      return {same_domain && problem_.spreads_domains(),
              given_[slot] + (problem_.equal_speeds ? 0.0 : more), 0.0, false, slot};
    return {same_domain, layout_.time(item.layer, slot) + more, layout_.total(slot) + more,
            !problem_.held[slot].contains(item.layer, item.expert), layout_.used(slot)};
  }
  bool exchange(const Item& item, std::uint32_t full, std::uint32_t free);

  Layout& layout_;
  const PlacementProblem& problem_;
  const bool plain_;
  std::vector<double> given_;           ///< of this layer, skipped ones included
  std::vector<std::uint64_t> skipped_;  ///< replicas that each slot got no second one of
};

bool Placer::place_by_exchange(const Item& item) {
  for (std::uint32_t free = 0; free < layout_.slots(); ++free) {
    if (!layout_.has_room(free)) continue;
    for (std::uint32_t full = 0; full < layout_.slots(); ++full) {
      if (layout_.has_room(full) || problem_.slots[full].limit == 0) continue;
      if (!layout_.has(full, item.layer, item.expert) && exchange(item, full, free)) return true;
    }
  }
  return false;
}

bool Placer::exchange(const Item& item, std::uint32_t full, std::uint32_t free) {
  // The item's own layer first: that leaves the layers' counts as they are.
  for (std::uint32_t step = 0; step < problem_.shape.layers; ++step) {
    const std::uint32_t layer = (item.layer + step) % problem_.shape.layers;
    for (std::uint32_t expert = 0; expert < problem_.shape.experts; ++expert) {
      const Change move(Edit{layer, expert, full, free});
      if (!layout_.has(full, layer, expert) || !layout_.allows(move)) continue;
      layout_.apply(move);
      layout_.add(full, item.layer, item.expert);
      return true;
    }
  }
  return false;
}

double load_of(const PlacementProblem& problem, std::uint32_t layer, std::uint32_t expert) {
  return problem.load[problem.cell(layer, expert)];
}

/// Drops spare replicas, those that are missed least first, while `over()`.
template <typename Over>
void drop_spares(Layout& layout, std::uint32_t slot, const Over& over) {
  const PlacementProblem& problem = layout.problem();
  while (over()) {
    std::tuple<double, std::uint32_t, std::uint32_t, std::uint32_t> best{-1, 0, 0, 0};
    for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert) {
        const std::uint32_t count = layout.count(layer, expert);
        for (const std::uint32_t holder : layout.holders(layer, expert)) {
          if (slot != kNoSlot && holder != slot) continue;
          if (slot == kNoSlot && count <= problem.floor) continue;
          // What the others would have to take over, more for what cannot be spared.
          const double loss = load_of(problem, layer, expert) / std::max(count, 2U) +
                              (count <= problem.floor ? 1e18 / count : 0.0);
          const std::tuple candidate{loss, layer, expert, holder};
          if (std::get<0>(best) < 0 || candidate < best) best = candidate;
        }
      }
    if (std::get<0>(best) < 0) return;
    layout.remove(std::get<3>(best), std::get<1>(best), std::get<2>(best));
  }
}

/// Frees room somewhere for `item` by dropping a spare replica.
bool make_room(Layout& layout, const Item& item) {
  const PlacementProblem& problem = layout.problem();
  for (std::uint32_t slot = 0; slot < layout.slots(); ++slot) {
    if (layout.has(slot, item.layer, item.expert)) continue;
    for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert) {
        const Change drop(Edit{layer, expert, slot, kNoSlot});
        if (!layout.has(slot, layer, expert) || !layout.allows(drop)) continue;
        layout.apply(drop);
        return true;
      }
  }
  return false;
}

bool fill_floor(Layout& layout) {
  const PlacementProblem& problem = layout.problem();
  Placer placer(layout, false);
  std::vector<Item> items;
  for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer)
    for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert)
      for (std::uint32_t count = layout.count(layer, expert); count < problem.floor; ++count)
        items.push_back({layer, expert, load_of(problem, layer, expert) / problem.floor});
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.height > b.height; });
  for (const Item& item : items) {
    if (placer.place(item) || placer.place_by_exchange(item)) continue;
    if (!make_room(layout, item) || !placer.place(item)) return false;
  }
  return true;
}

/// The best way to give an expert a second domain: by a move to a slot with room or an exchange.
Change find_spread(const Layout& layout, Trial& trial, std::uint32_t layer, std::uint32_t expert) {
  Change best;
  double best_time = 0;
  const auto consider = [&](const Change& change) {
    if (!layout.allows(change)) return;
    trial.run(change);
    const double time = trial.layer_time(0);
    if (best.count > 0 && time >= best_time) return;
    best = change;
    best_time = time;
  };
  const auto& slots = layout.problem().slots;
  for (const std::uint32_t from : layout.holders(layer, expert))
    for (std::uint32_t to = 0; to < layout.slots(); ++to) {
      if (slots[to].domain == slots[from].domain) continue;
      const Edit out{layer, expert, from, to};
      consider(Change(out));
      for (std::uint32_t other = 0; other < layout.problem().shape.experts; ++other)
        if (other != expert && layout.has(to, layer, other))
          consider(Change(out, Edit{layer, other, to, from}));
    }
  return best;
}

}  // namespace

void spread_domains(Layout& layout) {
  const PlacementProblem& problem = layout.problem();
  if (!problem.spreads_domains()) return;
  Trial trial(layout);
  for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer)
    for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert) {
      if (layout.count(layer, expert) < 2 || layout.holds_in_two_domains(layer, expert)) continue;
      const Change change = find_spread(layout, trial, layer, expert);
      if (change.count > 0) layout.apply(change);
    }
}

std::optional<Layout> pack(const PlacementProblem& problem,
                           const std::vector<std::uint32_t>& counts, bool plain) {
  Layout layout(problem);
  Placer placer(layout, plain);
  std::uint64_t room = 0;
  for (const PlacementSlot& slot : problem.slots) room += slot.limit;
  std::uint64_t left = 0;
  for (const std::uint32_t count : counts) left += count;
  for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer) {
    std::vector<Item> items;
    for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert) {
      const std::uint32_t count = counts[problem.cell(layer, expert)];
      items.insert(items.end(), count, {layer, expert, load_of(problem, layer, expert) / count});
    }
    std::stable_sort(items.begin(), items.end(),
                     [](const Item& a, const Item& b) { return a.height > b.height; });
    left -= items.size();
    // Every slot keeps room for its share of the layers to come.
    const auto paced = [&](std::uint32_t slot) {
      const std::uint64_t limit = problem.slots[slot].limit;
      return limit - std::min(limit, left * limit / room);
    };
    placer.begin_layer();
    for (const Item& item : items)
      if (!placer.place(item, paced) && !placer.place(item) && !placer.place_by_exchange(item))
        return std::nullopt;
  }
  spread_domains(layout);
  return layout;
}

std::optional<Layout> repair(const PlacementProblem& problem) {
  Layout layout(problem);
  for (std::uint32_t slot = 0; slot < layout.slots(); ++slot)
    for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert)
        if (problem.held[slot].contains(layer, expert)) layout.add(slot, layer, expert);
  for (std::uint32_t slot = 0; slot < layout.slots(); ++slot)
    drop_spares(layout, slot, [&] { return layout.used(slot) > problem.slots[slot].limit; });
  if (!fill_floor(layout)) return std::nullopt;
  drop_spares(layout, kNoSlot, [&] { return layout.replicas() > problem.budget; });
  spread_domains(layout);
  return layout;
}

bool meets_floor(const Layout& layout) {
  const ModelShape shape = layout.problem().shape;
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
    for (std::uint32_t expert = 0; expert < shape.experts; ++expert)
      if (layout.count(layer, expert) < layout.problem().floor) return false;
  return true;
}

}  // namespace fulgur::orchestrator
