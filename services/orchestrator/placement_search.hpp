// Local search of a placement by load: exchanges, moves and other replica counts that make the
// slowest workers faster, as few as reach the goal. Part of placement.hpp; nobody else needs it.
#pragma once

#include "services/orchestrator/placement_counts.hpp"
#include "services/orchestrator/placement_layout.hpp"

namespace fulgur::orchestrator {

struct SearchGoal {
  double target = 1.02;  ///< of a layer's slowest time over its bound; nothing better is sought
  double total_target = 1.02;     ///< of the slowest total over the mean
  std::uint64_t missing_max = 0;  ///< replicas to load, in all
  /// A layer that gets stuck is shaken so often, and stays as it was unless that helped.
  std::uint32_t kicks_max = 0;
};

/// Improves every layer's slowest slot, then the slowest slot in total. Never makes a layer or the
/// total worse than it was, except up to the goal. Spends from `work`, which bounds the time: one
/// for a change looked at, several for one tried.
void improve(Layout& layout, const ReplicaCounts& counts, const SearchGoal& goal,
             std::uint64_t& work);

/// Brings replicas back to where they are held, where that keeps every layer and the total within
/// the goal or as they are.
void restore(Layout& layout, const ReplicaCounts& counts, const SearchGoal& goal);

}  // namespace fulgur::orchestrator
