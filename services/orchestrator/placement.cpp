// Decides which of the ways to plan is taken: evenly while no load is known; else keep what is
// held, repair and improve it, or pack anew, whichever the policy and the figures favour.
#include "services/orchestrator/placement.hpp"

#include <cmath>
#include <numeric>
#include <optional>

#include "services/orchestrator/placement_build.hpp"
#include "services/orchestrator/placement_counts.hpp"
#include "services/orchestrator/placement_even.hpp"
#include "services/orchestrator/placement_search.hpp"

namespace fulgur::orchestrator {
namespace {

constexpr double kFreshTarget = 1.002;  // of a placement from nothing, where moves cost nothing
constexpr double kFreshTotalTarget = 1.0002;
constexpr std::uint64_t kWorkMax = 1'000'000;  // of one search: some 10 ms
constexpr std::uint32_t kRoundsMax = 4;
constexpr std::uint32_t kKicksMax = 64;
constexpr double kFreshGain = 0.05;  // of excess(), that makes placing anew worth its moves

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
  if (!std::isfinite(input.spare) || input.spare < 0)
    return error(Code::invalid_argument, "spare is {}, want a fraction >= 0", input.spare);
  return Status::ok();
}

/// Number of each worker's domain; workers that name none have one of their own.
std::vector<std::uint32_t> number_domains(const PlacementInput& input) {
  std::vector<std::string> names;
  for (const PlacementWorker& worker : input.workers)
    names.push_back(worker.domain.empty() ? "worker " + worker.name : "domain " + worker.domain);
  std::vector<std::string> sorted = names;
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::uint32_t> numbers;
  for (const std::string& name : names)
    numbers.push_back(static_cast<std::uint32_t>(
        std::lower_bound(sorted.begin(), sorted.end(), name) - sorted.begin()));
  return numbers;
}

/// Speeds near the median become the median.
void level_speeds(std::vector<PlacementSlot>& slots, double noise) {
  if (slots.empty()) return;
  std::vector<double> speeds;
  for (const PlacementSlot& slot : slots) speeds.push_back(slot.speed);
  const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>((speeds.size() - 1) / 2);
  std::nth_element(speeds.begin(), middle, speeds.end());
  for (PlacementSlot& slot : slots)
    if (slot.speed < *middle * noise && slot.speed * noise > *middle) slot.speed = *middle;
}

PlacementProblem make_problem(const PlacementInput& input, std::uint32_t floor) {
  PlacementProblem problem;
  problem.shape = input.shape;
  problem.floor = floor;
  problem.load = input.load;
  problem.load.resize(input.shape.cells());
  const auto domains = number_domains(input);
  std::uint64_t room = 0;
  for (std::size_t i = 0; i < input.workers.size(); ++i) {
    const std::uint64_t limit = replica_limit(input.workers[i], input.shape);
    if (limit > 0) problem.slots.push_back({i, limit, input.workers[i].speed, domains[i]});
    room += limit;
  }
  std::sort(problem.slots.begin(), problem.slots.end(), [&](const auto& a, const auto& b) {
    return input.workers[a.worker].name < input.workers[b.worker].name;
  });
  level_speeds(problem.slots, input.policy.speed_noise);
  std::vector<std::uint32_t> distinct;
  for (const PlacementSlot& slot : problem.slots) {
    problem.speed_sum += slot.speed;
    problem.equal_speeds &= slot.speed == problem.slots.front().speed;
    distinct.push_back(slot.domain);
    const ReplicaMap& held = input.workers[slot.worker].held;
    problem.held.push_back(held.shape() == input.shape ? held : ReplicaMap(input.shape));
  }
  std::sort(distinct.begin(), distinct.end());
  problem.domains =
      static_cast<std::uint32_t>(std::unique(distinct.begin(), distinct.end()) - distinct.begin());
  const std::uint64_t base = input.shape.cells() * floor;
  const double spare = std::floor(input.spare * static_cast<double>(input.shape.cells()) + 1e-9);
  problem.budget =
      base + static_cast<std::uint64_t>(std::min(spare, static_cast<double>(room - base)));
  return problem;
}

Layout layout_of(const PlacementProblem& problem, const std::vector<ReplicaMap>& maps) {
  Layout layout(problem);
  for (std::uint32_t slot = 0; slot < layout.slots(); ++slot)
    for (std::uint32_t layer = 0; layer < problem.shape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < problem.shape.experts; ++expert)
        if (maps[slot].contains(layer, expert)) layout.add(slot, layer, expert);
  return layout;
}

/// The even plan as a layout; its replicas of an expert in two domains where there are any.
Layout even_layout(const PlacementInput& input, const PlacementProblem& problem) {
  const PlacementPlan even = plan_even(input.shape, problem.floor, input.workers);
  std::vector<ReplicaMap> maps;
  for (const PlacementSlot& slot : problem.slots) maps.push_back(even.assigned[slot.worker]);
  Layout layout = layout_of(problem, maps);
  spread_domains(layout);
  return layout;
}

/// Whether what is held cannot stay, or may not.
bool must_change(const PlacementInput& input, const Layout& held) {
  if (input.forced || !meets_floor(held)) return true;
  for (std::uint32_t slot = 0; slot < held.slots(); ++slot)
    if (held.used(slot) > held.problem().slots[slot].limit) return true;
  for (const PlacementWorker& worker : input.workers)
    if (replica_limit(worker, input.shape) == 0 && worker.alive && worker.held.count() > 0)
      return true;
  return false;
}

class LoadPlanner {
 public:
  LoadPlanner(const PlacementInput& input, const PlacementProblem& problem)
      : input_(input),
        problem_(problem),
        policy_(input.policy),
        counts_(plan_counts(problem)),
        held_(layout_of(problem, problem.held)),
        before_(balance(held_)) {}

  const Balance& before() const { return before_; }
  Balance balance(const Layout& layout) const { return layout.balance(counts_.bound); }
  /// Nothing: the policy keeps what is held.
  std::optional<Layout> plan() const;

 private:
  Layout fresh() const;
  void improve_fully(Layout& layout, const ReplicaCounts& counts, const SearchGoal& goal) const;
  Layout improved(Layout repaired) const;

  const PlacementInput& input_;
  const PlacementProblem& problem_;
  const RebalancePolicy& policy_;
  CountPlan counts_;
  Layout held_;
  Balance before_;
};

std::optional<Layout> LoadPlanner::plan() const {
  if (held_.replicas() == 0) return fresh();
  const bool must = must_change(input_, held_);
  const bool rested = input_.since_change >= policy_.interval_min;
  if (!must && (!rested || before_.excess() <= policy_.trigger)) return std::nullopt;
  auto repaired = repair(problem_);
  Layout layout = improved(repaired ? *std::move(repaired) : even_layout(input_, problem_));
  if (!must && before_.excess() - balance(layout).excess() < policy_.gain_min) return std::nullopt;
  return layout;
}

/// Rounds, because a layer's search may free what another layer lacked, while they gain enough that
/// the same load would call for a change again.
void LoadPlanner::improve_fully(Layout& layout, const ReplicaCounts& counts,
                                const SearchGoal& goal) const {
  std::uint64_t work = kWorkMax;
  for (std::uint32_t round = 0; round < kRoundsMax; ++round) {
    const double before = balance(layout).excess();
    improve(layout, counts, goal, work);
    if (before - balance(layout).excess() < policy_.gain_min / 2) return;
  }
}

/// The better of two starts. The second is the packing of EPLB's global policy, which a search only
/// makes better: the first must not lose to it in any figure.
Layout LoadPlanner::fresh() const {
  SearchGoal goal;
  goal.target = kFreshTarget;
  goal.total_target = kFreshTotalTarget;
  goal.kicks_max = kKicksMax;
  goal.missing_max = ~std::uint64_t{0};
  ReplicaCounts counts = counts_.best;
  refine_counts(problem_, kFreshTarget, counts);
  auto packed = pack(problem_, counts.counts, false);
  Layout layout = packed ? *std::move(packed) : even_layout(input_, problem_);
  improve_fully(layout, counts_.best, goal);
  const Balance ours = balance(layout);
  auto plain = pack(problem_, counts_.equal.counts, true);
  if (!plain || ours.excess() <= kFreshTarget) return layout;
  const Balance start = balance(*plain);
  const bool loses = ours.layer > std::max(start.layer, kFreshTarget) ||
                     ours.total > std::max(start.total, kFreshTarget);
  improve_fully(*plain, counts_.equal, goal);
  return loses || balance(*plain).excess() < ours.excess() ? *plain : layout;
}

/// Few moves from what is held; all of them when those do not reach the target and all do better.
Layout LoadPlanner::improved(Layout layout) const {
  const double limit = input_.forced ? policy_.target : policy_.trigger;
  if (balance(layout).excess() <= limit) return layout;
  const std::uint64_t needed = layout.missing();
  const std::uint64_t moves_max =
      policy_.moves_max > ~needed ? ~std::uint64_t{0} : needed + policy_.moves_max;
  SearchGoal goal;
  goal.target = goal.total_target = policy_.target;
  goal.missing_max = moves_max;
  improve_fully(layout, counts_.best, goal);
  if (balance(layout).excess() <= std::max(policy_.trigger, 1.0 + kFreshGain)) return layout;
  Layout anew = fresh();
  restore(anew, counts_.best, goal);
  const bool better = balance(anew).excess() + kFreshGain <= balance(layout).excess();
  return better && anew.missing() <= moves_max ? anew : layout;
}

void fill(PlacementPlan& plan, const PlacementInput& input, const Layout& layout) {
  const PlacementProblem& problem = layout.problem();
  plan.assigned.assign(input.workers.size(), ReplicaMap(input.shape));
  for (std::uint32_t layer = 0; layer < input.shape.layers; ++layer)
    for (std::uint32_t expert = 0; expert < input.shape.experts; ++expert) {
      plan.counts.push_back(layout.count(layer, expert));
      for (const std::uint32_t slot : layout.holders(layer, expert))
        plan.assigned[problem.slots[slot].worker].add(layer, expert);
    }
  plan.moves = layout.missing();
}

bool believes_load(const PlacementInput& input) {
  const double sum = std::accumulate(input.load.begin(), input.load.end(), 0.0);
  return sum > 0 && sum / input.shape.layers >= input.policy.tokens_min;
}

void plan_by_load(const PlacementInput& input, const PlacementProblem& problem,
                  PlacementPlan& plan) {
  const LoadPlanner planner(input, problem);
  const auto layout = planner.plan();
  plan.by_load = true;
  plan.kept = !layout.has_value();
  const Layout held = layout_of(problem, problem.held);
  fill(plan, input, layout ? *layout : held);
  plan.before = planner.before();
  plan.after = planner.balance(layout ? *layout : held);
}

/// Where there are spare replicas, a placement by a load that was known once stays: the even one
/// would undo it.
void plan_without_load(const PlacementInput& input, const PlacementProblem& problem,
                       PlacementPlan& plan) {
  const Layout held = layout_of(problem, problem.held);
  plan.kept = input.spare > 0 && held.replicas() > 0 && !must_change(input, held);
  fill(plan, input, plan.kept ? held : even_layout(input, problem));
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
  PlacementPlan plan;
  plan.replicas = static_cast<std::uint32_t>(std::min<std::uint64_t>(fit, input.replicas));
  if (plan.replicas < input.replicas)
    plan.shortfall =
        fmt::format("{} of {} replicas an expert: {} workers have room for {} of {} replicas",
                    plan.replicas, input.replicas, usable, room, shape.cells() * input.replicas);
  const PlacementProblem problem = make_problem(input, plan.replicas);
  if (believes_load(input))
    plan_by_load(input, problem, plan);
  else
    plan_without_load(input, problem, plan);
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
