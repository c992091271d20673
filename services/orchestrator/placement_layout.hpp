// The state that load-aware placement works on: which usable worker (slot) holds which expert
// (cell), how long each slot needs in each layer, and what a change would do to that. Part of
// placement.hpp; nobody else needs it. Slots are in the order of their names.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "services/orchestrator/placement.hpp"

namespace fulgur::orchestrator {

struct PlacementSlot {
  std::size_t worker = 0;  ///< index in PlacementInput::workers
  std::uint64_t limit = 0;
  double speed = 1;
  std::uint32_t domain = 0;
};

struct PlacementProblem {
  ModelShape shape;
  std::uint32_t floor = 1;   ///< replicas of every expert at least
  std::uint64_t budget = 0;  ///< replicas in all at most
  std::vector<double> load;  ///< [layers, experts]
  std::vector<PlacementSlot> slots;
  std::uint32_t domains = 0;  ///< distinct ones among the slots
  double speed_sum = 0;
  bool equal_speeds = true;
  std::vector<ReplicaMap> held;  ///< for each slot

  std::size_t cell(std::uint32_t layer, std::uint32_t expert) const {
    return std::size_t{layer} * shape.experts + expert;
  }
  /// An expert with replicas in two domains survives the loss of one.
  bool spreads_domains() const { return domains > 1 && domains < slots.size(); }
};

inline constexpr std::uint32_t kNoSlot = ~std::uint32_t{0};

/// One replica moved, added (from is kNoSlot) or dropped (to is kNoSlot).
struct Edit {
  std::uint32_t layer = 0;
  std::uint32_t expert = 0;
  std::uint32_t from = kNoSlot;
  std::uint32_t to = kNoSlot;
};

/// Edits of different experts that happen together: of one layer, or two of two layers.
struct Change {
  std::array<Edit, 4> edits;
  std::uint32_t count = 0;

  Change() = default;
  explicit Change(Edit only) : edits{only}, count(1) {}
  Change(Edit first, Edit second) : edits{first, second}, count(2) {}
  Change(Edit first, Edit second, Edit third, Edit fourth)
      : edits{first, second, third, fourth}, count(4) {}
  Change reversed() const;
};

class Layout {
 public:
  explicit Layout(const PlacementProblem& problem);

  const PlacementProblem& problem() const { return *problem_; }
  std::uint32_t slots() const { return static_cast<std::uint32_t>(used_.size()); }
  bool has(std::uint32_t slot, std::uint32_t layer, std::uint32_t expert) const {
    return has_[slot * problem_->shape.cells() + problem_->cell(layer, expert)] != 0;
  }
  const std::vector<std::uint32_t>& holders(std::uint32_t layer, std::uint32_t expert) const {
    return holders_[problem_->cell(layer, expert)];
  }
  std::uint32_t count(std::uint32_t layer, std::uint32_t expert) const {
    return static_cast<std::uint32_t>(holders(layer, expert).size());
  }
  /// Time that each holder of the expert spends on it.
  double height(std::uint32_t layer, std::uint32_t expert) const {
    return height_[problem_->cell(layer, expert)];
  }
  double time(std::uint32_t layer, std::uint32_t slot) const {
    return time_[std::size_t{layer} * used_.size() + slot];
  }
  double total(std::uint32_t slot) const { return total_[slot]; }
  std::uint64_t used(std::uint32_t slot) const { return used_[slot]; }
  bool has_room(std::uint32_t slot) const { return used_[slot] < problem_->slots[slot].limit; }
  std::uint64_t replicas() const { return replicas_; }
  /// Replicas that are not held yet.
  std::uint64_t missing() const { return missing_; }
  std::uint32_t slowest(std::uint32_t layer) const;
  double layer_time(std::uint32_t layer) const { return time(layer, slowest(layer)); }
  bool holds_in_two_domains(std::uint32_t layer, std::uint32_t expert) const;

  void add(std::uint32_t slot, std::uint32_t layer, std::uint32_t expert);
  void remove(std::uint32_t slot, std::uint32_t layer, std::uint32_t expert);
  void apply(const Change& change);

  /// Whether `change` keeps floors, capacities, the budget, distinct workers and two domains.
  bool allows(const Change& change) const;
  /// Loads that `change` adds; negative when it undoes some.
  int loads(const Change& change) const;

  Balance balance(double layer_bound) const;

 private:
  void retime(std::uint32_t slot, std::uint32_t layer);
  void changed(std::uint32_t layer, std::uint32_t expert);
  bool keeps_domains(const Edit& edit) const;

  const PlacementProblem* problem_;
  std::vector<std::uint8_t> has_;                    ///< [slots, layers, experts]
  std::vector<std::vector<std::uint32_t>> holders_;  ///< [layers, experts], slots ascending
  std::vector<double> height_;                       ///< [layers, experts]
  std::vector<double> time_;                         ///< [layers, slots]
  std::vector<double> total_;                        ///< [slots]
  std::vector<std::uint64_t> used_;                  ///< [slots]
  std::uint64_t replicas_ = 0;
  std::uint64_t missing_ = 0;
};

/// What a change would do to times, without doing it. One object serves many changes.
class Trial {
 public:
  explicit Trial(const Layout& layout);

  void run(const Change& change);
  /// The longest new time among the slots that `change` touches in the layer of edit 0 or, where
  /// that is another one, of edit 1; 0 where it touches none.
  double slowest_touched(std::uint32_t edit) const;
  /// The slowest slot of that layer after the change.
  double layer_time(std::uint32_t edit) const;
  double total(std::uint32_t slot) const {
    return layout_.total(slot) + sides_[0].delta[slot] + sides_[1].delta[slot];
  }
  /// The longest new total among all slots that the change touches.
  double slowest_total() const;

 private:
  struct Side {
    std::uint32_t layer = 0;
    std::vector<double> delta;  ///< [slots]
    std::vector<std::uint32_t> touched;
  };
  void bump(Side& side, std::uint32_t slot, double by);
  void clear(Side& side);
  const Side& side_of(std::uint32_t edit) const { return sides_[two_layers_ ? edit : 0]; }

  const Layout& layout_;
  std::array<Side, 2> sides_;
  std::vector<std::uint8_t> marked_;  ///< [2, slots]
  bool two_layers_ = false;
};

}  // namespace fulgur::orchestrator
