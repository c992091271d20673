// The faults of a Simulation: when, and what they do.
#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/simulation.hpp"

namespace fulgur::sim {
namespace {

using wire::ServiceKind;

constexpr std::size_t kPlacesMax = 14;

}  // namespace

void Simulation::schedule_fault(Fault fault) {
  const Nanoseconds period = scenario_.period(fault);
  const bool continuous = beyond_contract(fault) || fault == Fault::bad_load;
  if (period == 0 || continuous) return;
  world_.after(dice_.around(period) + 1, [this, fault] {
    if (!faulty_) return;
    inject(fault);
    schedule_fault(fault);
  });
}

void Simulation::inject(Fault fault) {
  ++report_.faults[static_cast<std::size_t>(fault)];
  world_.record(16 + static_cast<std::uint64_t>(fault),
                [&] { return fmt::format("FAULT {}", to_string(fault)); });
  const auto kill = [this](ServiceKind kind) {
    if (Place* place = pick_alive(kind)) end(*place, Death::killed, dice_.around(scenario_.restart_mean));
  };
  switch (fault) {
    case Fault::kill_worker: return kill(ServiceKind::expert);
    case Fault::kill_shard: return kill(ServiceKind::attention);
    case Fault::kill_router: return kill(ServiceKind::router);
    case Fault::kill_orchestrator: return kill(ServiceKind::orchestrator);
    case Fault::vanish:
      if (Place* place = pick_alive()) {
        end(*place, Death::vanished, kSecond + dice_.around(scenario_.restart_mean));
      }
      return;
    case Fault::crash: return crash_somebody();
    case Fault::stop:
      if (Place* place = pick_alive()) {
        const Nanoseconds until = world_.now() + dice_.around(2 * kSecond);
        place->process->pause(until);
      }
      return;
    case Fault::slow: return slow_down();
    case Fault::lag: {
      const auto [a, b] = pick_link();
      const Nanoseconds until = world_.now() + dice_.around(3 * kSecond);
      network_.slow(a, b, 20, until);
      return network_.slow(b, a, 20, until);
    }
    case Fault::clog: {
      const auto [a, b] = pick_link();
      return network_.block(a, b, world_.now() + dice_.around(kSecond));
    }
    case Fault::partition: return partition();
    case Fault::reset: {
      const auto [a, b] = pick_link();
      return network_.reset(a, b);
    }
    case Fault::join:
      if (places_.size() < kPlacesMax) {
        const std::uint32_t number = scenario_.workers + joined_++;
        start(add_place(ServiceKind::expert, fmt::format("expert-{}", number)));
      }
      return;
    case Fault::drain: return drain_somebody();
    case Fault::hang_up: return hang_up_somebody();
    case Fault::second_orchestrator: return start_second_orchestrator();
    default: return;
  }
}

/// Two processes that talk to each other.
std::pair<std::string, std::string> Simulation::pick_link() {
  const auto name = [this](ServiceKind kind, std::uint32_t count, const char* prefix) {
    return kind == ServiceKind::orchestrator ? std::string(prefix)
                                             : fmt::format("{}-{}", prefix, dice_.below(count));
  };
  const std::string shard = name(ServiceKind::attention, scenario_.shards, "attention");
  std::pair<std::string, std::string> link;
  switch (dice_.below(4)) {
    case 0: link = {name(ServiceKind::router, scenario_.routers, "router"), shard}; break;
    case 1: link = {dice_.pick(places_)->name, "orchestrator"}; break;
    default: link = {shard, name(ServiceKind::expert, scenario_.workers, "expert")};
  }
  if (dice_.chance(0.5)) std::swap(link.first, link.second);
  return link;
}

void Simulation::slow_down() {
  Place* const place = pick_alive(dice_.chance(0.7) ? ServiceKind::expert : ServiceKind::attention);
  if (place == nullptr) return;
  place->process->set_speed(10);
  world_.after(dice_.around(4 * kSecond), [place, ticket = place->restart] {
    if (place->process && place->restart == ticket) place->process->set_speed(1);
  });
}

/// One pair, or one process from all others; one way or both; mostly short.
void Simulation::partition() {
  const Nanoseconds until =
      world_.now() + (dice_.chance(0.2) ? 20 * kSecond : dice_.around(2 * kSecond));
  const bool both = dice_.chance(0.5);
  const auto cut = [&](const std::string& a, const std::string& b) {
    network_.block(a, b, until);
    if (both) network_.block(b, a, until);
  };
  if (dice_.chance(0.6)) {
    const auto [a, b] = pick_link();
    return cut(a, b);
  }
  const std::string alone = dice_.pick(places_)->name;
  for (const auto& place : places_) {
    if (place->name != alone) cut(alone, place->name);
  }
}

void Simulation::start_second_orchestrator() {
  const auto spare = std::ranges::find_if(places_, [](const auto& place) { return place->spare; });
  if (spare != places_.end() && (*spare)->process) {
    return end(**spare, Death::killed, 0);
  }
  Place* place = spare == places_.end() ? nullptr : spare->get();
  if (place == nullptr) {
    place = &add_place(ServiceKind::orchestrator, "orchestrator");
    place->spare = true;
  }
  start(*place);
}

void Simulation::drain_somebody() {
  const bool worker = dice_.chance(0.5);
  Place* const place = pick_alive(worker ? ServiceKind::expert : ServiceKind::attention);
  if (place == nullptr) return;
  const auto orchestrators = alive<OrchestratorProcess>();
  if (!orchestrators.empty() && dice_.chance(0.5)) {
    orchestrators.front()->drain(place->name);
  } else if (worker) {
    static_cast<WorkerProcess&>(*place->process).leave();
  } else {
    static_cast<ShardProcess&>(*place->process).leave();
  }
}

/// An actor of a worker or a shard: all but a worker's layers take their process along.
void Simulation::crash_somebody() {
  const bool worker = dice_.chance(0.6);
  Place* const place = pick_alive(worker ? ServiceKind::expert : ServiceKind::attention);
  if (place == nullptr) return;
  place->crashed = true;
  std::vector<actor::Handle> actors;
  if (worker) {
    const expert::Worker& front = static_cast<WorkerProcess&>(*place->process).worker();
    actors = front.context.layers;
    actors.push_back(front.node);
  } else {
    const attention::Shard& shard = static_cast<ShardProcess&>(*place->process).shard();
    actors = shard.layers;
    actors.push_back(shard.dispatch);
    actors.push_back(shard.engine_actor);
  }
  if (!actors.empty()) place->process->crash(dice_.pick(actors));
}

void Simulation::hang_up_somebody() {
  std::vector<Call*> open;
  for (const auto& call : calls_) {
    if (call->open()) open.push_back(call.get());
  }
  if (!open.empty()) dice_.pick(open)->hang_up();
}

}  // namespace fulgur::sim
