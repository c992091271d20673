#include "services/orchestrator/placement.hpp"

#include <cmath>

#include "services/orchestrator/placement_even.hpp"

namespace fulgur::orchestrator {
namespace {

Status check(const PlacementInput& input) {
  FULGUR_ASSERT(input.shape.cells() > 0 && input.replicas > 0, "nothing to place");
  if (!input.load.empty() && input.load.size() != input.shape.cells())
    return error(Code::invalid_argument, "load has {} cells, the model has {}", input.load.size(),
                 input.shape.cells());
  for (const double tokens : input.load)
    if (!std::isfinite(tokens) || tokens < 0)
      return error(Code::invalid_argument, "load holds {}, want a number >= 0", tokens);
  for (const PlacementWorker& worker : input.workers)
    if (!std::isfinite(worker.speed) || worker.speed <= 0)
      return error(Code::invalid_argument, "worker {} has speed {}, want a number > 0", worker.name,
                   worker.speed);
  return Status::ok();
}

std::vector<std::uint32_t> count_replicas(ModelShape shape, const std::vector<ReplicaMap>& maps) {
  std::vector<std::uint32_t> counts(shape.cells());
  for (const ReplicaMap& map : maps)
    for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < shape.experts; ++expert)
        counts[std::size_t{layer} * shape.experts + expert] += map.contains(layer, expert) ? 1 : 0;
  return counts;
}

}  // namespace

Result<PlacementPlan> plan_placement(const PlacementInput& input) {
  if (auto valid = check(input); !valid.is_ok()) return valid;
  const ModelShape shape = input.shape;
  std::size_t usable = 0;
  std::uint64_t room = 0;
  for (const PlacementWorker& worker : input.workers) {
    usable += worker.alive && !worker.draining ? 1 : 0;
    room += replica_limit(worker, shape);
  }
  if (usable == 0) return error(Code::resource_exhausted, "no expert worker is in the mesh");
  const std::uint64_t fit = room / shape.cells();
  if (fit == 0)
    return error(Code::resource_exhausted,
                 "{} expert workers have room for {} experts, the model has {} ({} layers x {})",
                 usable, room, shape.cells(), shape.layers, shape.experts);
  const auto replicas = static_cast<std::uint32_t>(std::min<std::uint64_t>(fit, input.replicas));
  PlacementPlan plan = plan_even(shape, replicas, input.workers);
  plan.counts = count_replicas(shape, plan.assigned);
  if (replicas < input.replicas)
    plan.shortfall = fmt::format(
        "{} of {} replicas an expert: {} workers have room for {} of {} replicas", replicas,
        input.replicas, usable, room, shape.cells() * input.replicas);
  return plan;
}

Result<PlacementPlan> plan_placement(ModelShape shape, std::uint32_t replicas_wanted,
                                     const std::vector<PlacementWorker>& workers) {
  PlacementInput input;
  input.shape = shape;
  input.replicas = replicas_wanted;
  input.workers = workers;
  return plan_placement(input);
}

}  // namespace fulgur::orchestrator
