#include "services/attention/dispatch_actor.hpp"

#include "common/base/log.hpp"
#include "common/telemetry/hot_path.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::attention {
namespace {

constexpr Nanoseconds kTickPeriod = 50 * kMillisecond;

}  // namespace

DispatchActor::DispatchActor(actor::Self& self, Shard* shard)
    : self_(self),
      shard_(*shard),
      dispatch_(shard->options.registration.name, shard->options.dispatch, *shard->clock,
                make_hooks()) {}

caf::behavior DispatchActor::make_behavior() {
  actor::tell_after(self_, kTickPeriod, &self_, Tick{});
  return {
      [this](const RunExperts& message) {
        const Nanoseconds started = telemetry::stamp(*shard_.clock);
        dispatch_.run(message.batch, message.layer);
        shard_.dispatching += telemetry::stamp(*shard_.clock) - started;
      },
      [this](actor::Received<wire::Combine>& received) {
        dispatch_.on_combine(received.link, std::move(received.body));
      },
      [this](const actor::Received<wire::Nack>& received) {
        dispatch_.on_nack(received.link, received.body);
      },
      [this](const actor::LinkUp& up) {
        dispatch_.on_link_up(up.link);
        publish();
      },
      [this](const actor::LinkDown& down) {
        dispatch_.on_link_down(down.link);
        publish();
      },
      [this](const AdoptPlacement& message) { adopt(message.placement); },
      [this](Tick) { tick(); },
  };
}

ExpertDispatch::Hooks DispatchActor::make_hooks() {
  ExpertDispatch::Hooks hooks;
  hooks.send = [this](transport::LinkId link, wire::Message message) {
    return shard_.transport->send(link, wire::encode(message));
  };
  hooks.pack = [this](const MicroBatch& batch, std::span<const std::uint32_t> rows) {
    return pack(batch, rows);
  };
  hooks.done = [this](const MicroBatchPtr& batch, std::uint32_t layer) {
    shard_.dispatch_stats = dispatch_.stats();
    actor::tell(shard_.layers[layer], ExpertsDone{batch});
  };
  hooks.connect = [this](const std::string& endpoint) -> transport::LinkId {
    auto link = shard_.transport->connect(endpoint, shard_.options.expert_carrier);
    if (link.is_ok()) return *link;
    log::error("cannot connect endpoint={} why=\"{}\"", endpoint, link.status().message());
    return 0;
  };
  hooks.disconnect = [this](transport::LinkId link) { shard_.transport->close(link); };
  hooks.report = [this](const wire::Report& report) {
    actor::tell(shard_.engine_actor, Say{report});
  };
  return hooks;
}

/// In the pool's memory, or in the host's where that has none left: it travels more slowly then.
Result<wire::Frame> DispatchActor::pack(const MicroBatch& batch,
                                        std::span<const std::uint32_t> rows) {
  const std::size_t bytes =
      rows.size() * shard_.config.hidden * size_of(shard_.options.dispatch.dtype);
  auto memory = shard_.pool->take_if_any(bytes);
  const MemoryKind kind = memory ? shard_.pool->memory() : MemoryKind::host;
  if (!memory) memory = host_pool_.take_if_any(bytes);
  if (!memory) return error(Code::resource_exhausted, "no {} bytes of host memory", bytes);
  try {
    return gather(batch, rows, {memory, memory.get(), bytes, kind, nullptr}, memory.get());
  } catch (const std::bad_alloc& refused) {
    shard_.backend->finish();  // what was queued may write to the block
    return error(Code::resource_exhausted, "{}", refused.what());
  }
}

wire::Frame DispatchActor::gather(const MicroBatch& batch, std::span<const std::uint32_t> rows,
                                  wire::Frame frame, std::byte* to) {
  shard_.backend->gather(batch.y.data(), rows, shard_.config.hidden, shard_.options.dispatch.dtype,
                         to);
  auto mark = wire::is_device(frame) ? shard_.backend->mark() : nullptr;
  if (!mark) return frame;
  // Whoever waits for the event has the block and the event to do so.
  frame.ready = mark->event();
  frame.owner = std::make_shared<const std::pair<decltype(frame.owner), decltype(mark)>>(
      std::move(frame.owner), std::move(mark));
  return frame;
}

void DispatchActor::adopt(const wire::Placement& placement) {
  // A repeated placement asks for the Switched that was lost.
  if (!dispatch_.set_placement(placement) && !dispatch_.routes_by(placement)) return;
  const auto& registration = shard_.options.registration;
  actor::tell(shard_.engine_actor,
              Say{wire::Switched{registration.name, registration.incarnation, placement.epoch}});
  publish();
}

void DispatchActor::tick() {
  actor::tell_after(self_, kTickPeriod, &self_, Tick{});
  dispatch_.tick();
  publish();
}

void DispatchActor::publish() {
  shard_.dispatch_stats = dispatch_.stats();
  shard_.workers_seen = dispatch_.workers_seen();
  shard_.experts_reachable = dispatch_.complete();
  shard_.dispatch_quiet = dispatch_.quiet();
}

}  // namespace fulgur::attention
