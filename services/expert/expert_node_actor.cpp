#include "services/expert/expert_node_actor.hpp"

#include <algorithm>

#include "common/base/log.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::expert {

ExpertNodeActor::ExpertNodeActor(actor::Self& self, WorkerContext* context, NodeOptions options,
                                 ReplicaSource* loader, NodeLoad* load)
    : self_(self),
      context_(*context),
      options_(std::move(options)),
      loader_(loader),
      load_(*load),
      orchestrator_(*context->transport, context->name, [this] { return describe(); }),
      last_(context->store->layers()),
      wanted_(context->store->layers(), context->store->experts()) {
  load_.expert_tokens_total.assign(
      std::size_t{context_.store->layers()} * context_.store->experts(), 0);
}

caf::behavior ExpertNodeActor::make_behavior() {
  start_layers();
  if (auto connected = orchestrator_.connect(options_.orchestrator); !connected.is_ok()) {
    options_.on_fatal(connected.to_string());
  }
  actor::tell_after(self_, actor::kHeartbeatPeriod, &self_, HeartbeatDue{});
  return {
      [this](actor::Received<wire::Dispatch>& received) { on_dispatch(received); },
      [this](const actor::Received<wire::Prepare>& received) { on_prepare(received.body); },
      [this](const actor::Received<wire::Retire>& received) { on_retire(received.body); },
      [this](const actor::Received<wire::Ack>& received) { on_ack(received.body); },
      [this](const actor::Received<wire::Drain>& received) { on_drain(received.body); },
      [this](const ReplicaLoaded& loaded) { on_loaded(loaded); },
      [this](const actor::LinkUp& up) { orchestrator_.on_up(up); },
      [this](const actor::LinkDown& down) { on_link_down(down); },
      [this](HeartbeatDue) { beat(); },
      [this](Leave) { ask_to_leave(); },
      [this](LeaveNow) { leave(); },
  };
}

void ExpertNodeActor::start_layers() {
  context_.layers.resize(context_.store->layers());
  std::vector<actor::ChildSpec> children;
  for (std::uint32_t layer = 0; layer < context_.layers.size(); ++layer) {
    children.push_back({fmt::format("expert-layer-{}", layer),
                        [this, layer] {
                          return actor::spawn_state<ExpertLayerActor>(self_.system(), &context_, layer);
                        },
                        [this, layer](const actor::Handle& started) { context_.layers[layer] = started; }});
  }
  actor::SupervisorOptions supervision;
  supervision.on_escalate = [this](const std::string& child, const std::string& why) {
    options_.on_fatal(fmt::format("{} keeps failing: {}", child, why));
  };
  actor::spawn_state<actor::Supervisor>(self_.system(), context_.clock, std::move(supervision),
                                        std::move(children));
}

void ExpertNodeActor::on_dispatch(actor::Received<wire::Dispatch>& received) {
  const auto& dispatch = received.body;
  const bool known = dispatch.layer < context_.layers.size();
  if (known && !context_.draining) {
    actor::tell(context_.layers[dispatch.layer], std::move(received));
    return;
  }
  ++load_.nacks_total;
  wire::Message message;
  message.sender = context_.name;
  message.trace = received.trace;
  message.body = wire::Nack{dispatch.id, context_.epoch, dispatch.layer,
                            known ? wire::NackReason::draining : wire::NackReason::invalid};
  if (auto sent = context_.transport->send(received.link, wire::encode(message)); !sent.is_ok()) {
    log::warn("nack not sent why=\"{}\"", sent.message());
  }
}

void ExpertNodeActor::on_prepare(const wire::Prepare& prepare) {
  if (!orchestrator_.accept_generation(prepare.orchestrator_generation)) return;
  const bool repeated = preparing_epoch_ == prepare.epoch &&
                        preparing_generation_ == prepare.orchestrator_generation;
  if (repeated) return;  // it is being loaded: the answer follows
  preparing_epoch_ = prepare.epoch;
  preparing_generation_ = prepare.orchestrator_generation;
  const WeightStore& store = *context_.store;
  auto wanted = ReplicaSet::from_bitmap(store.layers(), store.experts(), prepare.replicas);
  if (!wanted.is_ok()) return finish_prepare(wanted.status().code(), wanted.status().message());
  wanted_ = std::move(*wanted);
  std::vector<ReplicaId> missing;
  for (const ReplicaId id : wanted_.list()) {
    if (!store.find(id)) missing.push_back(id);
  }
  const std::size_t urgent = put_urgent_first(missing, prepare.urgent);
  replicas_missing_ = missing.size();
  log::info("preparing epoch={} replicas={} to_load={} urgent={}", prepare.epoch,
            wanted_.list().size(), missing.size(), urgent);
  if (missing.empty()) return finish_prepare(Code::ok, "");
  if (loader_ == nullptr) return finish_prepare(Code::failed_precondition, "replicas are fixed");
  loader_->load(std::move(missing), urgent);
}

/// Sorts what nobody serves now to the front; returns how many those are.
std::size_t ExpertNodeActor::put_urgent_first(std::vector<ReplicaId>& ids,
                                              const std::vector<std::uint64_t>& bitmap) const {
  const WeightStore& store = *context_.store;
  const auto urgent = ReplicaSet::from_bitmap(store.layers(), store.experts(), bitmap);
  if (bitmap.empty() || !urgent.is_ok()) return 0;
  const auto rest = std::stable_partition(ids.begin(), ids.end(),
                                          [&](ReplicaId id) { return urgent->contains(id); });
  return static_cast<std::size_t>(rest - ids.begin());
}

void ExpertNodeActor::on_loaded(const ReplicaLoaded& loaded) {
  if (!loaded.weights) {
    ++load_.load_failures_total;
    if (preparing_epoch_ == 0 || !wanted_.contains(loaded.id)) return;
    loader_->load({}, 0);  // the orchestrator plans again: the rest would only take more memory
    finish_prepare(loaded.why.code(), loaded.why.message());
    return;
  }
  const bool was_missing = !context_.store->find(loaded.id);
  context_.store->insert(loaded.id, loaded.weights);
  // A replica of a superseded Prepare still counts when the new one wants it too.
  if (preparing_epoch_ == 0 || !was_missing || !wanted_.contains(loaded.id)) return;
  if (--replicas_missing_ == 0) finish_prepare(Code::ok, "");
}

void ExpertNodeActor::finish_prepare(Code code, std::string message) {
  if (preparing_epoch_ == 0) return;
  if (code == Code::ok) context_.epoch = preparing_epoch_;
  if (code != Code::ok) log::error("cannot prepare epoch={} why=\"{}\"", preparing_epoch_, message);
  orchestrator_.say(wire::Prepared{context_.name, options_.registration.incarnation,
                                   preparing_epoch_, code, std::move(message)});
  preparing_epoch_ = 0;
}

void ExpertNodeActor::on_retire(const wire::Retire& retire) {
  if (!orchestrator_.accept_generation(retire.orchestrator_generation)) return;
  if (retire.epoch != context_.epoch || preparing_epoch_ != 0) return;
  context_.store->retain(wanted_);
}

void ExpertNodeActor::on_ack(const wire::Ack& ack) {
  // An older orchestrator too: that there has been a newer one it learns from a registration alone.
  if (!orchestrator_.accept_generation(ack.orchestrator_generation) &&
      ack.code != Code::not_found) {
    return;
  }
  if (ack.code == Code::not_found) {
    orchestrator_.register_here();
    if (asked_to_leave_) orchestrator_.say(wire::Drain{context_.name, orchestrator_.generation()});
    return;
  }
  if (ack.code != Code::ok && asked_to_leave_) {
    log::warn("leaving although replicas stay behind why=\"{}\"", ack.message);
    return leave();
  }
  if (ack.code != Code::ok) options_.on_fatal("the orchestrator refused this worker: " + ack.message);
}

void ExpertNodeActor::beat() {
  actor::tell_after(self_, actor::kHeartbeatPeriod, &self_, HeartbeatDue{});
  if (loads_missing_ > 0) return;
  loads_missing_ = context_.layers.size();
  fresh_tokens_.clear();
  for (const auto& layer : context_.layers) {
    self_.request(layer, caf::infinite, AskLoad{})
        .then([this](const LayerLoad& answer) { on_layer_load(answer); },
              // A layer actor that just failed answers nothing; its supervisor has replaced it.
              [this](const caf::error&) { --loads_missing_; });
  }
}

void ExpertNodeActor::on_layer_load(const LayerLoad& layer) {
  const std::uint32_t experts = context_.store->experts();
  last_[layer.layer] = layer;
  for (std::uint16_t expert = 0; expert < experts; ++expert) {
    const std::uint64_t tokens = layer.expert_tokens[expert];
    if (tokens == 0) continue;
    load_.expert_tokens_total[std::size_t{layer.layer} * experts + expert] += tokens;
    fresh_tokens_.push_back({static_cast<std::uint16_t>(layer.layer), expert, tokens});
  }
  if (--loads_missing_ > 0) return;
  wire::Load load;
  load_.runs_total = 0;
  load_.refused_total = 0;
  for (const auto& last : last_) {
    load_.runs_total += last.runs_total;
    load_.refused_total += last.refused_total;
    load.queue_depth += static_cast<std::uint32_t>(last.queued);
    load.tokens_total += last.routed_rows_total;
    load.requests_total += last.dispatches_total;
    load.busy_ns_total += static_cast<std::uint64_t>(last.busy_total);
    load.wait_ns_total += static_cast<std::uint64_t>(last.wait_total);
  }
  load.busy_ns_total += static_cast<std::uint64_t>(context_.device_time->total());
  load.running = load.queue_depth;
  load.held_bytes = context_.store->held_bytes();
  load_.load = load;
  orchestrator_.say(wire::Heartbeat{context_.name, options_.registration.incarnation, context_.epoch,
                                    load, fresh_tokens_, 0, {}});
}

void ExpertNodeActor::on_drain(const wire::Drain& drain) {
  if (orchestrator_.accept_generation(drain.orchestrator_generation)) leave();
}

void ExpertNodeActor::on_link_down(const actor::LinkDown& down) {
  orchestrator_.on_down(down);
  if (asked_to_leave_ && !orchestrator_.connected()) leave();
}

void ExpertNodeActor::ask_to_leave() {
  if (context_.draining || asked_to_leave_) return;
  const bool serving = !context_.store->held().empty();
  if (!serving || options_.drain_timeout == 0 || !orchestrator_.connected()) return leave();
  log::info("asking the orchestrator to move replicas away patience_s={}",
            options_.drain_timeout / kSecond);
  asked_to_leave_ = true;
  orchestrator_.say(wire::Drain{context_.name, orchestrator_.generation()});
  actor::tell_after(self_, options_.drain_timeout, &self_, LeaveNow{});
}

void ExpertNodeActor::leave() {
  if (context_.draining) return;
  context_.draining = true;
  log::info("draining");
  // Whatever was queued before runs first: on_left is posted behind the layers' pending work.
  auto waiting = std::make_shared<std::size_t>(context_.layers.size());
  auto one_done = [this, waiting] {
    if (--*waiting == 0) options_.on_left();
  };
  for (const auto& layer : context_.layers) {
    self_.request(layer, caf::infinite, AskLoad{})
        .then([one_done](const LayerLoad&) { one_done(); },
              [one_done](const caf::error&) { one_done(); });
  }
}

wire::Register ExpertNodeActor::describe() const {
  wire::Register registration = options_.registration;
  registration.epoch = context_.epoch;
  registration.draining = context_.draining;
  for (const ReplicaId id : context_.store->held()) registration.held.emplace_back(id.layer, id.expert);
  return registration;
}

}  // namespace fulgur::expert
