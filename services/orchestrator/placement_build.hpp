// Starting points of a placement by load: packed from nothing, or what is held made whole again.
// Part of placement.hpp; nobody else needs it.
#pragma once

#include <optional>
#include <vector>

#include "services/orchestrator/placement_counts.hpp"
#include "services/orchestrator/placement_layout.hpp"

namespace fulgur::orchestrator {

/// Every layer's replicas, heaviest first, each onto the slot that has least to do in the layer;
/// ties to the least total, then to one that holds it already, or (`plain`) to the first. Nothing
/// when some replica found no slot, which happens in tight, unequal capacities only.
std::optional<Layout> pack(const PlacementProblem& problem,
                           const std::vector<std::uint32_t>& counts, bool plain);

/// What is held, cut to capacities and budget, filled up to the floor and spread over two domains
/// where they allow it. Nothing when some replica found no slot.
std::optional<Layout> repair(const PlacementProblem& problem);

/// Gives experts whose replicas share a domain a second one, by moves and exchanges.
void spread_domains(Layout& layout);

/// Whether `layout` is whole: at least the floor everywhere.
bool meets_floor(const Layout& layout);

}  // namespace fulgur::orchestrator
