// The mesh as the admin API shows it: /v1/mesh JSON, and the gauges and counters of /metrics.
#pragma once

#include <map>
#include <string>

#include "common/telemetry/metrics.hpp"
#include "services/orchestrator/coordinator.hpp"

namespace fulgur::orchestrator {

/// What the orchestrator says about itself in /v1/mesh.
struct SelfDescription {
  std::string name;
  std::uint32_t pid = 0;
  std::string endpoint;
  std::string admin_endpoint;
};

/// {"services":[{"kind","name","pid","endpoint","admin","epoch","replicas","load":{…},"state"}],
///  "epoch","generation","phase","ready","problem","pools":[{"pool","replicas","wanted",…}],
///  "change":{"epoch","moves","waits_for","asked","for_ms"} or null,"lost":[{"kind","name",…}],…}.
/// Lost members are no services; `state` is alive, suspect or draining.
std::string mesh_json(const Coordinator& coordinator, const SelfDescription& self);

/// Exported numbers; update() from the thread that owns the coordinator.
class MeshMetrics {
 public:
  explicit MeshMetrics(telemetry::Metrics& metrics);
  void update(const Coordinator& coordinator, std::uint64_t malformed_frames);

 private:
  void update_pool(const std::string& pool, const ScalingSignal& signal);
  void update_replicas(const Epochs& epochs);

  telemetry::Metrics& metrics_;
  std::uint64_t shown_epoch_ = 0;
  std::vector<telemetry::Gauge*> expert_replicas_;  ///< [layers * experts]
  using Key = std::pair<wire::ServiceKind, MemberState>;
  std::map<Key, telemetry::Gauge*> members_;
  telemetry::Gauge& epoch_;
  telemetry::Gauge& replicas_;
  telemetry::Gauge& serving_;
  telemetry::MirroredCounter moves_;
  telemetry::MirroredCounter losses_;
  telemetry::MirroredCounter refused_;
  telemetry::MirroredCounter registrations_;
  telemetry::MirroredCounter reports_;
  std::map<std::string, telemetry::Gauge*> wanted_;  ///< by pool
  std::map<std::string, telemetry::Gauge*> present_;
  std::map<std::string, telemetry::Gauge*> busy_;
  telemetry::MirroredCounter rebalances_;
  telemetry::Gauge& balance_;
  telemetry::Gauge& slow_;
  telemetry::MirroredCounter departures_;
  telemetry::MirroredCounter drains_refused_;
  telemetry::MirroredCounter malformed_;
};

}  // namespace fulgur::orchestrator
