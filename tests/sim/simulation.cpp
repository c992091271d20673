#include "tests/sim/simulation.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "common/wire/codec.hpp"

namespace fulgur::sim {
namespace {

using wire::ServiceKind;

constexpr Nanoseconds kBootBound = 60 * kSecond;
// A request whose Submit was damaged ends at its deadline, 120 s after it came.
constexpr Nanoseconds kRecoveryBound = 130 * kSecond;
constexpr Nanoseconds kProbeTimeout = 60 * kSecond;
constexpr Nanoseconds kLook = 100 * kMillisecond;  ///< between two looks at the mesh
constexpr std::size_t kFailuresMax = 8;

}  // namespace

Simulation::Simulation(std::uint64_t seed, std::function<void(const std::string&)> lines)
    : seed_(seed),
      scenario_(seed),
      model_(SimModel::instance()),
      world_(seed, std::move(lines)),
      dice_(mix64(seed ^ 0x6661756c74ULL)),
      network_(world_, scenario_.links) {
  report_.seed = seed;
  network_.conditions.latency_min = scenario_.conditions.latency_min;
  network_.conditions.latency_mean = scenario_.conditions.latency_mean;
  network_.tap = [this](const auto& from, const auto& frames) { watch(from, frames); };
  log::redirect(world_.verbose() ? log::Level::info : log::Level::warn,
                [this](log::Level level, std::string_view line) { watch_log(level, line); });
  const auto add = [this](ServiceKind kind, std::uint32_t count, const char* prefix) {
    for (std::uint32_t at = 0; at < count; ++at) {
      add_place(kind, fmt::format("{}-{}", prefix, at));
    }
  };
  add_place(ServiceKind::orchestrator, "orchestrator");
  add(ServiceKind::expert, scenario_.workers, "expert");
  add(ServiceKind::attention, scenario_.shards, "attention");
  add(ServiceKind::router, scenario_.routers, "router");
}

Simulation::~Simulation() {
  for (const auto& call : calls_) call->router_died();
  for (auto place = places_.rbegin(); place != places_.rend(); ++place) (*place)->process.reset();
  log::redirect(log::Level::error, {});
}

// ---------------------------------------------------------------- processes

Simulation::Place& Simulation::add_place(ServiceKind kind, std::string name) {
  places_.push_back(std::make_unique<Place>());
  places_.back()->kind = kind;
  places_.back()->name = std::move(name);
  return *places_.back();
}

std::unique_ptr<Process> Simulation::make_process(Place& place) {
  ProcessOptions options;
  options.identity = {place.kind, place.name, next_incarnation_++};
  options.endpoint = "sim://" + place.name;
  if (scenario_.fresh_endpoints && place.kind != ServiceKind::orchestrator) {
    options.endpoint += fmt::format("/{}", options.identity.incarnation);
  }
  options.orchestrator = orchestrator_endpoint();
  options.cost = scenario_.cost;
  options.on_exit = [this, &place](const Exit& exit) { on_exit(place, exit); };
  switch (place.kind) {
    case ServiceKind::orchestrator: {
      orchestrator::CoordinatorOptions coordinator = scenario_.coordinator;
      const auto& config = model_.checkpoint().config();
      coordinator.epochs.shape = {config.layers, config.experts};
      coordinator.epochs.expert_bytes = model_.checkpoint().expert_bytes();
      coordinator.fingerprint = model_.checkpoint().fingerprint();
      coordinator.generation = static_cast<std::uint64_t>(ProcessClock(world_).wall_now()) +
                               options.identity.incarnation;
      return std::make_unique<OrchestratorProcess>(world_, network_, options, coordinator);
    }
    case ServiceKind::expert:
      return std::make_unique<WorkerProcess>(
          world_, network_, options, model_, scenario_.layer,
          scenario_.capacity_replicas * model_.checkpoint().expert_bytes(),
          scenario_.drain_timeout, loading_);
    case ServiceKind::attention:
      return std::make_unique<ShardProcess>(world_, network_, options, model_, scenario_.scheduler,
                                            scenario_.dispatch);
    default:
      return std::make_unique<RouterProcess>(world_, network_, options, model_,
                                             scenario_.requests_max);
  }
}

void Simulation::start(Place& place) {
  ++place.restart;
  place.crashed = false;
  place.process = make_process(place);
  world_.record(next_incarnation_, [&] { return "start " + place.name; });
}

void Simulation::end(Place& place, Death death, Nanoseconds restart_after) {
  world_.record(5, [&] { return fmt::format("{} {}", death == Death::killed ? "end" : "vanish", place.name); });
  if (place.kind == ServiceKind::router) {
    for (const auto& call : calls_) {
      if (call->router() == place.name) call->router_died();
    }
  }
  place.process->set_death(death);
  place.process.reset();
  ++place.restart;
  if (place.spare) return;
  if (calm_) restart_after = std::min(restart_after, 200 * kMillisecond);
  world_.after(restart_after, [this, &place, ticket = place.restart] {
    if (place.restart == ticket) start(place);
  });
}

void Simulation::on_exit(Place& place, const Exit& exit) {
  world_.record(6, [&] { return fmt::format("{} exits {} {}", place.name, exit.code, exit.why); });
  const bool broken = exit.why.find("failed: ") != std::string::npos ||
                      exit.why.find("keeps failing") != std::string::npos;
  if (broken && !place.crashed) fail(fmt::format("{}: {}", place.name, exit.why));
  end(place, Death::killed, dice_.around(scenario_.restart_mean));
}

Simulation::Place* Simulation::pick_alive(ServiceKind kind) {
  std::vector<Place*> found;
  for (const auto& place : places_) {
    if (place->process && place->kind == kind) found.push_back(place.get());
  }
  return found.empty() ? nullptr : dice_.pick(found);
}

Simulation::Place* Simulation::pick_alive() {
  std::vector<Place*> found;
  for (const auto& place : places_) {
    if (place->process) found.push_back(place.get());
  }
  return found.empty() ? nullptr : dice_.pick(found);
}

// ---------------------------------------------------------------- phases

void Simulation::run_until(Nanoseconds when) {
  while (world_.step(when)) {
  }
}

bool Simulation::run_until(Nanoseconds bound, const std::function<bool()>& condition) {
  while (!condition()) {
    if (world_.now() >= bound) return false;
    run_until(std::min(bound, world_.now() + kLook));
  }
  return true;
}

Report Simulation::run() {
  boot();
  if (report_.failures.empty()) {
    run_until(world_.now() + scenario_.duration);
    recover();
    probe();
    check_calls();
  }
  return report();
}

/// Processes start in any order within a second.
void Simulation::boot() {
  for (const auto& place : places_) {
    world_.at(static_cast<Nanoseconds>(dice_.below(kSecond)), [this, &place = *place] { start(place); });
  }
  if (scenario_.faults_at_start) {
    world_.after(kSecond, [this] { let_faults_begin(); });
    run_until(world_.now() + kSecond);
    return;
  }
  if (!run_until(kBootBound, [this] { return serving(); })) {
    fail(fmt::format("an undisturbed mesh does not start: {}", unrest()));
  }
  let_faults_begin();
}

void Simulation::let_faults_begin() {
  faulty_ = true;
  Conditions& conditions = network_.conditions;
  conditions = scenario_.conditions;
  loading_.failure = scenario_.bad_load;
  for (std::size_t fault = 0; fault < kFaults; ++fault) schedule_fault(static_cast<Fault>(fault));
  schedule_requests();
}

void Simulation::recover() {
  faulty_ = false;
  calm_ = true;
  faults_ended_ = world_.now();
  world_.record(7, [] { return "faults end"; });
  network_.calm();
  loading_.failure = 0;
  for (const auto& place : places_) {
    if (place->process) {
      place->process->set_speed(1);
      place->process->resume();
    } else if (!place->spare) {
      start(*place);
    }
  }
  // Of two orchestrators the older goes: it is the one nobody obeys any more.
  std::vector<Place*> orchestrators;
  for (const auto& place : places_) {
    if (place->process && place->kind == ServiceKind::orchestrator) orchestrators.push_back(place.get());
  }
  if (orchestrators.size() == 2) {
    std::ranges::sort(orchestrators, {}, [](Place* place) { return place->process->incarnation(); });
    Place& going = *orchestrators.front();
    for (Place* place : orchestrators) place->spare = place == &going;
    end(going, Death::killed, 0);
  }
  const auto quiet = [this] { return unrest().empty(); };
  if (!run_until(faults_ended_ + kRecoveryBound, quiet)) {
    fail(fmt::format("not quiet {} s after the last fault: {}", kRecoveryBound / kSecond, unrest()));
  }
  report_.recovery = world_.now() - faults_ended_;
}

/// Every router must serve again.
void Simulation::probe() {
  if (!report_.failures.empty()) return;
  const auto routers = alive<RouterProcess>();
  for (std::size_t count = 0; count < 3 * routers.size(); ++count) {
    const auto call = send_call(*routers[count % routers.size()], kProbeTimeout);
    run_until(world_.now() + kProbeTimeout + kSecond, [&] { return !call->open(); });
    if (call->ending() == Ending::complete) continue;
    fail(fmt::format("after recovery request {} is {} {} {}", call->number(),
                     to_string(call->ending()), call->status(), call->message()));
  }
  if (!run_until(world_.now() + 20 * kSecond, [this] { return unrest().empty(); })) {
    fail(fmt::format("not quiet after the last request: {}", unrest()));
  }
  check_leaks();
}

// ---------------------------------------------------------------- requests

void Simulation::schedule_requests() {
  for (const Nanoseconds arrival : scenario_.arrivals) {
    world_.after(arrival, [this] { start_call(); });
  }
}

void Simulation::start_call() {
  const auto routers = alive<RouterProcess>();
  if (routers.empty()) return;
  send_call(*dice_.pick(routers), scenario_.request_timeout);
}

std::shared_ptr<Call> Simulation::send_call(RouterProcess& router, Nanoseconds timeout) {
  const auto& spec = dice_.pick(model_.requests());
  calls_.push_back(std::make_shared<Call>(world_, spec, calls_.size() + 1));
  calls_.back()->send(router, timeout);
  return calls_.back();
}

Report Simulation::report() {
  report_.trace = world_.trace();
  report_.events = world_.events();
  report_.duration = world_.now();
  report_.network = network_.counts();
  for (const auto& call : calls_) ++report_.endings[call->ending()];
  return report_;
}

void Simulation::fail(std::string what) {
  world_.print("FAILURE " + what);
  if (report_.failures.size() < kFailuresMax) report_.failures.push_back(std::move(what));
}

Report simulate(std::uint64_t seed, std::function<void(const std::string&)> lines) {
  Simulation simulation(seed, std::move(lines));
  return simulation.run();
}

}  // namespace fulgur::sim
