// fulgur-orchestrator: membership, placement epochs, mesh telemetry. Soft state: kill it and start
// it again at any time, the data plane does not notice.
#include <fmt/core.h>
#include <unistd.h>

#include <atomic>

#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "common/service/reactor_metrics.hpp"
#include "common/service/service.hpp"
#include "common/transport/make_transport.hpp"
#include "services/orchestrator/process.hpp"

namespace fulgur::orchestrator {
namespace {

Status run(const Options& options) {
  const RealClock clock;
  std::atomic<actor::Reactor*> running = nullptr;
  service::SignalWatch signals([&] {
    if (auto* const reactor = running.load())
      reactor->stop();
    else
      _exit(0);  // nobody was served yet
  });
  FULGUR_ASSIGN_OR_RETURN(auto checkpoint, model::Checkpoint::open(options.model));
  const auto settings = coordinator_options(options, *checkpoint, clock);

  transport::TransportOptions sockets;
  sockets.listen = options.listen;
  sockets.allowed = transport::Carrier::zmq;  // control messages are small: no shared memory
  sockets.curve = options.curve;
  FULGUR_ASSIGN_OR_RETURN(
      auto transport,
      transport::make_transport(
          {wire::ServiceKind::orchestrator, options.name, settings.generation}, sockets));
  telemetry::Metrics metrics("orchestrator", options.name);
  MeshMetrics mesh_metrics(metrics);
  ReadinessBoard board;
  EventFeed feed(clock, settings.generation);
  actor::Reactor reactor(*transport, clock);
  // After the reactor: its routes hold actors, which must not outlive the actor system.
  FULGUR_ASSIGN_OR_RETURN(
      auto admin, telemetry::open_admin(options.admin, metrics, [&board] { return board.read(); }));
  OrchestratorDeps deps;
  deps.options = settings;
  deps.self = {options.name, static_cast<std::uint32_t>(getpid()), transport->endpoint(),
               admin->endpoint()};
  deps.metrics = &mesh_metrics;
  deps.feed = &feed;
  deps.on_serving = [&board](const Status& serving) { board.post(serving); };

  Status ended = Status::ok();
  spawn_supervised(reactor, clock, std::move(deps), *admin, ended);
  admin->start();
  service::refresh_periodically(
      reactor, [&, links = std::make_shared<service::ReactorMetrics>(metrics)] {
        links->refresh(reactor, transport->stats());
      });
  log::info("serving endpoint={} admin={} layers={} experts={} replicas={}", transport->endpoint(),
            admin->endpoint(), settings.epochs.shape.layers, settings.epochs.shape.experts,
            options.replicas);

  running.store(&reactor);
  reactor.run();
  running.store(nullptr);
  feed.close();
  admin->shutdown(kSecond);
  return ended;
}

}  // namespace
}  // namespace fulgur::orchestrator

int main(int argc, char** argv) {
  fulgur::tune_allocator();
  fulgur::orchestrator::Options options;
  if (const auto code = fulgur::orchestrator::parse_options(argc, argv, options)) return *code;
  fulgur::log::init(options.name, fulgur::log::parse_level(options.log_level));
  const fulgur::Status ended = fulgur::orchestrator::run(options);
  if (ended.is_ok()) return 0;
  fmt::print(stderr, "fulgur-orchestrator: {}\n", ended.message());
  return 1;
}
