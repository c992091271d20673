// What a scripted mesh is expected to look like when it is left alone.
#pragma once

#include <gtest/gtest.h>

#include "orchestrator/scripted_mesh.hpp"

namespace fulgur::orchestrator {

inline constexpr auto kShape = ScriptedMesh::kShape;

inline CoordinatorOptions expecting(std::uint32_t experts, std::uint32_t attention) {
  CoordinatorOptions options = ScriptedMesh::default_options();
  options.expect_experts = experts;
  options.expect_attention = attention;
  return options;
}

inline void start_members(ScriptedMesh& mesh, int workers) {
  mesh.start(wire::ServiceKind::router, "router-0");
  mesh.start(wire::ServiceKind::attention, "attention-0");
  for (int i = 0; i < workers; ++i) mesh.start(wire::ServiceKind::expert, "expert-" + std::to_string(i));
}

/// What shards and routers believe is true: replicas are held where the placement says, by workers
/// that live, `replicas` times each.
inline void expect_healthy(ScriptedMesh& mesh, std::uint32_t replicas) {
  EXPECT_TRUE(mesh.coordinator().epochs().serving().is_ok());
  EXPECT_EQ(mesh.coordinator().epochs().phase(), Epochs::Phase::idle);
  for (const auto& [reader_name, reader] : mesh.peers()) {
    if (!reader.alive || reader.info.kind == wire::ServiceKind::expert) continue;
    const wire::Placement& placement = reader.placement;
    EXPECT_EQ(placement.epoch, mesh.coordinator().epochs().epoch()) << reader_name;
    std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> holders;
    for (const auto& entry : placement.workers) {
      const auto& worker = mesh.peer(entry.name);
      EXPECT_TRUE(worker.alive) << entry.name;
      EXPECT_EQ(entry.incarnation, worker.info.incarnation) << entry.name;
      EXPECT_EQ(entry.endpoint, worker.info.endpoint);
      const ReplicaMap named = replicas_of(entry.replicas);
      EXPECT_EQ(named, worker.held) << entry.name << " holds what the placement names";
      for (std::uint32_t layer = 0; layer < kShape.layers; ++layer)
        for (std::uint32_t expert = 0; expert < kShape.experts; ++expert)
          if (named.contains(layer, expert)) ++holders[{layer, expert}];
    }
    EXPECT_EQ(holders.size(), kShape.cells());
    for (const auto& [cell, count] : holders) EXPECT_EQ(count, replicas);
  }
}

}  // namespace fulgur::orchestrator
