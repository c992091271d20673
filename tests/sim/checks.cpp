// What a Simulation checks.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "common/wire/codec.hpp"
#include "tests/sim/simulation.hpp"

namespace fulgur::sim {

using wire::ServiceKind;

/// Epochs of one orchestrator only grow.
void Simulation::watch(const transport::Identity& from, const wire::Frames& frames) {
  if (from.kind != ServiceKind::orchestrator) return;
  const auto message = wire::decode(frames);
  if (!message.is_ok()) return fail("the orchestrator sends what does not decode");
  const auto* placement = std::get_if<wire::Placement>(&message->body);
  if (placement == nullptr) return;
  std::uint64_t& last = epochs_[placement->orchestrator_generation];
  if (placement->epoch < last) {
    fail(fmt::format("generation {} publishes epoch {} after {}",
                     placement->orchestrator_generation, placement->epoch, last));
  }
  last = placement->epoch;
}

void Simulation::watch_log(log::Level level, std::string_view line) {
  if (world_.verbose()) world_.print(fmt::format("log {}", line));
  if (level < log::Level::warn || line.find("restarting actor") == std::string_view::npos) return;
  for (const auto& place : places_) {
    if (place->crashed) return;
  }
  fail(std::string(line));
}

void Simulation::ask_view() {
  for (OrchestratorProcess* orchestrator : alive<OrchestratorProcess>()) {
    orchestrator->ask_view([this](std::string view) { view_ = std::move(view); });
  }
}

bool Simulation::serving() {
  for (const auto& place : places_) {
    if (!place->process && !place->spare) return false;
  }
  const auto shards = alive<ShardProcess>();
  for (ShardProcess* shard : shards) {
    if (!shard->shard().experts_reachable) return false;
  }
  for (RouterProcess* router : alive<RouterProcess>()) {
    if (!router->ready() || router->shards_up() != static_cast<double>(shards.size())) return false;
  }
  return true;
}

/// Why the mesh is not at rest and serving; empty when it is.
std::string Simulation::unrest() {
  for (const auto& call : calls_) {
    if (call->open())
      return fmt::format("request {} of {} is open", call->number(), call->router());
  }
  for (const auto& place : places_) {
    if (!place->process && !place->spare) return place->name + " is not running";
  }
  for (OrchestratorProcess* orchestrator : alive<OrchestratorProcess>()) {
    if (!orchestrator->serving().is_ok()) {
      return "the orchestrator says: " + orchestrator->serving().message();
    }
  }
  const auto shards = alive<ShardProcess>();
  for (ShardProcess* process : shards) {
    const attention::Shard& shard = process->shard();
    if (!shard.experts_reachable) return process->name() + " does not reach all experts";
    if (!shard.engine->idle()) return process->name() + " is not idle";
    if (!shard.dispatch_quiet) return process->name() + " has dispatches outstanding";
  }
  for (RouterProcess* router : alive<RouterProcess>()) {
    if (!router->ready()) return router->name() + " is not ready";
    if (router->shards_up() != static_cast<double>(shards.size())) {
      return fmt::format("{} reaches {} of {} shards", router->name(), router->shards_up(),
                         shards.size());
    }
  }
  const auto view = nlohmann::json::parse(view_, nullptr, false);
  ask_view();
  if (view.is_discarded()) return "the orchestrator does not answer";
  const std::string phase = view.value("phase", "");
  if (phase != "idle") return "the orchestrator is " + phase;
  // A member it has not heard since a fault may yet be declared lost, and be back a moment later.
  std::set<std::string> alive_there;
  for (const auto& service : view["services"])
    if (service.value("state", "") == "alive") alive_there.insert(service.value("name", ""));
  for (const auto& place : places_) {
    if (place->process && place->kind != ServiceKind::orchestrator &&
        !alive_there.contains(place->name))
      return place->name + " is not alive to the orchestrator";
  }
  return {};
}

void Simulation::check_calls() {
  for (const auto& call : calls_) check_call(*call);
}

/// Exactly one ending, and a fair one.
void Simulation::check_call(const Call& call) {
  const auto wrong = [&](const std::string& what) {
    fail(fmt::format("request {} of {}, started at {:.3f} s, {} at {:.3f} s with {} \"{}\": {}",
                     call.number(), call.router(), static_cast<double>(call.started()) / 1e9,
                     to_string(call.ending()), static_cast<double>(call.ended()) / 1e9,
                     call.status(), call.message(), what));
  };
  if (!call.wrong().empty()) return wrong(call.wrong());
  switch (call.ending()) {
    case Ending::open:
      return wrong("it never ended");
    case Ending::complete:
      report_.tokens += call.tokens();
      return;
    case Ending::hung_up:
    case Ending::router_died:
      return;
    case Ending::refused:
    case Ending::failed:
      break;
  }
  if (call.status() == 504) {
    if (call.ended() < call.deadline()) wrong("its deadline had not come");
    return;
  }
  if (call.status() != 503 && call.status() != 429) return wrong("no error a client may see");
  const bool at_the_door =
      call.ending() == Ending::refused &&
      (call.status() == 429 || call.message() == "no attention shard is ready");
  if (!at_the_door && scenario_.strict())
    wrong("it was admitted and faults were within the contract");
}

/// At rest nothing may be held.
void Simulation::check_leaks() {
  for (ShardProcess* process : alive<ShardProcess>()) {
    const attention::Scheduler& scheduler = process->shard().engine->scheduler();
    if (scheduler.slots().used() != 0) fail(process->name() + " leaks state slots");
    if (scheduler.pages().used() != 0) fail(process->name() + " leaks KV pages");
  }
  for (RouterProcess* router : alive<RouterProcess>()) {
    if (router->admission().taken() != 0) fail(router->name() + " leaks places of admission");
    if (router->running() != 0) fail(router->name() + " believes that sequences run");
  }
  for (const auto& place : places_) {
    if (!place->process) continue;
    const actor::Reactor& reactor = place->process->reactor();
    if (reactor.unexpected() != 0) fail(place->name + " got messages it has no actor for");
    if (reactor.malformed() > network_.counts().corrupted) {
      fail(place->name + " counts more malformed messages than were damaged");
    }
  }
  const std::size_t bound = scenario_.links.queue_messages + 1;
  if (network_.counts().queue_messages_max > bound + network_.counts().duplicated) {
    fail(fmt::format("a link held {} messages", network_.counts().queue_messages_max));
  }
}

}  // namespace fulgur::sim
