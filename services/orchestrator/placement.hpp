// Where expert replicas live: a pure function from workers, load and what is held now to an
// assignment. Without load every expert gets the same number of replicas, counts are even and
// replicas stay where they are held. With load, hot experts get more replicas and the slowest
// worker of every layer is made as fast as the replicas allow, by few moves. Replicas of an expert
// are always on distinct workers. The result does not depend on the order of the workers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"
#include "services/orchestrator/replica_map.hpp"

namespace fulgur::orchestrator {

struct PlacementWorker {
  std::string name;
  std::uint64_t capacity = 0;  ///< replicas it may hold
  ReplicaMap held;             ///< what it holds now, of the model's shape
  double speed = 1.0;          ///< rows a second relative to the others, > 0
  std::string domain = {};     ///< host or rack that fails as one; empty: a domain of its own
  bool alive = true;           ///< false: as if not given
  bool draining = false;       ///< gets nothing; what it holds is placed elsewhere
};

/// When a placement by load may change. Lost and draining workers are always acted upon.
struct RebalancePolicy {
  double trigger = 1.02;                    ///< no change while Balance::excess() is below
  double target = 1.01;                     ///< the search for improvements ends here
  double gain_min = 0.01;                   ///< a change must lower Balance::excess() by this much
  Nanoseconds interval_min = 30 * kSecond;  ///< between two changes
  /// Replicas loaded for balance in one change; those that a loss or a floor demands do not count.
  std::uint64_t moves_max = std::numeric_limits<std::uint64_t>::max();
  /// Speeds that differ from the median by less than this factor count as equal: they are measured
  /// on busy hosts, and replicas must not follow noise.
  double speed_noise = 1.6;
  double tokens_min = 4096;  ///< (token, slot) pairs a layer before load is believed
};

struct PlacementInput {
  ModelShape shape;
  std::uint32_t replicas = 2;  ///< of every expert at least, as far as capacities allow
  double spare = 0;            ///< more for hot experts, as a fraction of layers * experts
  std::vector<double> load;    ///< [layers, experts] tokens (LoadHistory::snapshot()); may be empty
  std::vector<PlacementWorker> workers;
  RebalancePolicy policy;
  /// Since the last change of the placement.
  Nanoseconds since_change = std::numeric_limits<Nanoseconds>::max();
  bool forced = false;  ///< membership or settings changed: the policy's thresholds do not hold
};

/// How even a placement spreads a load; 1 is perfect. A worker's time is the tokens it gets over
/// its speed, where a replica gets the part of its expert's tokens that its worker's speed is of
/// all holders' speeds. Layers run one after another, so what counts is each layer's slowest
/// worker.
struct Balance {
  double layer = 1;  ///< sum over layers of the slowest worker's time, over that of the mean
  double total = 1;  ///< slowest worker over the mean, all layers added: what bounds throughput
  /// What `layer` could be at best with as many replicas, were packing no problem.
  double layer_bound = 1;
  double excess() const { return std::max(layer / layer_bound, total); }
};

struct PlacementPlan {
  std::vector<ReplicaMap> assigned;   ///< for each worker, in the order given
  std::uint32_t replicas = 0;         ///< of every expert at least
  std::uint64_t moves = 0;            ///< replicas that must be loaded somewhere
  std::string shortfall;              ///< why replicas < wanted; empty when it is not
  bool by_load = false;               ///< load was known and decided
  bool kept = false;                  ///< the policy keeps what is held: assigned is held
  std::vector<std::uint32_t> counts;  ///< replicas of each expert, [layers, experts]
  Balance before;                     ///< of what is held; meaningful when by_load
  Balance after;                      ///< of `assigned`; meaningful when by_load
};

/// resource_exhausted, saying how much is missing, when some expert would have no replica.
/// invalid_argument when load does not fit the shape or holds what is not a number >= 0.
Result<PlacementPlan> plan_placement(const PlacementInput& input);

/// The same without load: equal counts, fewest moves.
Result<PlacementPlan> plan_placement(ModelShape shape, std::uint32_t replicas_wanted,
                                     const std::vector<PlacementWorker>& workers);

}  // namespace fulgur::orchestrator
