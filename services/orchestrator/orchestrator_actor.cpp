#include "services/orchestrator/orchestrator_actor.hpp"

#include "common/base/log.hpp"
#include "common/wire/codec.hpp"
#include "services/orchestrator/ops_topics.hpp"

namespace fulgur::orchestrator {
namespace {

constexpr Nanoseconds kTick = 100 * kMillisecond;
struct Tick {};

}  // namespace
}  // namespace fulgur::orchestrator

FULGUR_LOCAL_MESSAGE(fulgur::orchestrator::Tick)

namespace fulgur::orchestrator {

using actor::Received;

OrchestratorActor::OrchestratorActor(actor::Self& self, OrchestratorDeps deps)
    : self_(self),
      deps_(std::move(deps)),
      coordinator_(deps_.options, deps_.reactor->clock(), static_cast<Outbox&>(*this)) {}

caf::behavior OrchestratorActor::make_behavior() {
  actor::tell_after(self_, kTick, &self_, Tick{});
  return {
      [this](const Received<wire::Register>& message) {
        coordinator_.on_register(message.link, message.body);
      },
      [this](const Received<wire::Heartbeat>& message) {
        coordinator_.on_heartbeat(message.link, message.body);
      },
      [this](const Received<wire::Prepared>& message) { coordinator_.on_prepared(message.body); },
      [this](const Received<wire::Switched>& message) { coordinator_.on_switched(message.body); },
      [this](const Received<wire::Report>& message) { coordinator_.on_report(message.body); },
      [this](const Received<wire::Drain>& message) {
        coordinator_.on_drain(message.link, message.body);
      },
      [](const actor::LinkUp&) {},  // a member is whoever registers
      [this](const actor::LinkDown& down) { coordinator_.on_link_down(down.link); },
      [this](const MeshQuery& query) { query.answer(mesh_json(coordinator_, deps_.self)); },
      [this](const EventsQuery& query) {
        query.answer(
            events_json(coordinator_.events(), deps_.options.generation, query.position));
      },
      [this](const WatchCommand& command) { watch(command); },
      [this](const DrainCommand& command) { command.answer(run(command)); },
      [this](Tick) { on_tick(); },
  };
}

Status OrchestratorActor::run(const DrainCommand& command) {
  if (command.kind == DrainCommand::Kind::drain) return coordinator_.drain(command.names);
  for (const std::string& name : command.names)
    FULGUR_RETURN_IF_ERROR(coordinator_.undrain(name));
  return Status::ok();
}

void OrchestratorActor::on_tick() {
  actor::tell_after(self_, kTick, &self_, Tick{});
  coordinator_.tick();
  const auto malformed = deps_.reactor->malformed() + deps_.reactor->transport().stats().malformed;
  if (deps_.metrics != nullptr) deps_.metrics->update(coordinator_, malformed);
  if (deps_.on_serving) deps_.on_serving(coordinator_.serving());
  feed_watchers();  // of its end too, so before it
  if (coordinator_.superseded_by() != 0 && deps_.on_superseded)
    deps_.on_superseded(coordinator_.serving());
}

void OrchestratorActor::watch(const WatchCommand& command) {
  if (deps_.feed == nullptr) return command.watcher->refuse();
  deps_.feed->add(command.watcher, command.position);
  feed_watchers();
}

void OrchestratorActor::feed_watchers() {
  if (deps_.feed != nullptr)
    deps_.feed->tick(coordinator_.events(), [this] { return ops_topics(coordinator_, deps_.self); });
}

void OrchestratorActor::send(transport::LinkId link, wire::Body body) {
  if (link == 0) return;  // the member is away; it hears the state of things when it registers
  wire::Message message;
  message.sender = deps_.self.name;
  message.body = std::move(body);
  const Status sent = deps_.reactor->transport().send(link, wire::encode(message));
  if (!sent.is_ok()) log::warn("not sent link={} why=\"{}\"", link, sent.message());
}

actor::Handle start_orchestrator(actor::Reactor& reactor, OrchestratorDeps deps) {
  deps.reactor = &reactor;
  auto handle = reactor.spawn<OrchestratorActor>(std::move(deps));
  reactor.subscribe<wire::Register>(handle);
  reactor.subscribe<wire::Heartbeat>(handle);
  reactor.subscribe<wire::Prepared>(handle);
  reactor.subscribe<wire::Switched>(handle);
  reactor.subscribe<wire::Report>(handle);
  reactor.subscribe<wire::Drain>(handle);
  reactor.subscribe_links(handle);
  return handle;
}

}  // namespace fulgur::orchestrator
