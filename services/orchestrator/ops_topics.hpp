// What the operations page is told of the mesh, beside events: three topics as JSON.
#pragma once

#include "services/orchestrator/event_feed.hpp"
#include "services/orchestrator/mesh_view.hpp"

namespace fulgur::orchestrator {

/// {"layers","experts","tokens":[…]}: decayed (token, slot) pairs of every expert as whole numbers,
/// [layers, experts].
std::string load_json(const Coordinator& coordinator);

/// {"epoch","layers","experts","workers":[names],"holders":[[worker indices]…]}: who holds each
/// expert in the committed epoch, [layers, experts]; no workers and no holders before the first.
std::string placement_json(const Coordinator& coordinator);

/// "mesh" (mesh_json()), "load", "placement".
Topics ops_topics(const Coordinator& coordinator, const SelfDescription& self);

}  // namespace fulgur::orchestrator
