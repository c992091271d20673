// fulgur-orchestrator: membership, placement epochs, mesh telemetry. Soft state: kill it and start
// it again at any time, the data plane does not notice.
#include <fmt/core.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

#include "common/actor/supervisor.hpp"
#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "common/transport/make_transport.hpp"
#include "services/orchestrator/process.hpp"

namespace fulgur::orchestrator {
namespace {

Status run(const Options& options, const sigset_t& stop_signals) {
  RealClock clock;
  FULGUR_ASSIGN_OR_RETURN(auto checkpoint, model::Checkpoint::open(options.model));
  const auto settings = coordinator_options(options, *checkpoint, clock);

  transport::TransportOptions sockets;
  sockets.listen = options.listen;
  sockets.allowed = transport::Carrier::zmq;  // control messages are small: no shared memory
  FULGUR_ASSIGN_OR_RETURN(
      auto transport,
      transport::make_transport(
          {wire::ServiceKind::orchestrator, options.name, settings.generation}, sockets));
  telemetry::Metrics metrics("orchestrator", options.name);
  MeshMetrics mesh_metrics(metrics);
  ReadinessBoard board;
  actor::Reactor reactor(*transport, clock);
  // After the reactor: its routes hold actors, which must not outlive the actor system.
  FULGUR_ASSIGN_OR_RETURN(
      auto admin, telemetry::open_admin(options.admin, metrics, [&board] { return board.read(); }));
  OrchestratorDeps deps;
  deps.options = settings;
  deps.self = {options.name, static_cast<std::uint32_t>(getpid()), transport->endpoint(),
               admin->endpoint()};
  deps.metrics = &mesh_metrics;
  deps.on_serving = [&board](const Status& serving) { board.post(serving); };

  // A failed actor ends the process: only a new one hears everybody register again.
  Status ended = Status::ok();
  actor::SupervisorOptions supervision;
  supervision.restarts_max = 0;
  supervision.on_escalate = [&](const std::string& child, const std::string& why) {
    ended = error(Code::internal, "{} failed: {}", child, why);
    reactor.stop();
  };
  reactor.spawn<actor::Supervisor>(
      &clock, supervision,
      std::vector<actor::ChildSpec>{
          {"orchestrator", [&] { return start_orchestrator(reactor, deps); },
           [&](const actor::Handle& it) { add_mesh_route(*admin, it); }}});
  reactor.run_until_idle(16);
  admin->start();
  log::info("serving endpoint={} admin={} layers={} experts={} replicas={}", transport->endpoint(),
            admin->endpoint(), settings.epochs.shape.layers, settings.epochs.shape.experts,
            options.replicas);

  std::thread signals([&] {
    int signal = 0;
    sigwait(&stop_signals, &signal);
    reactor.stop();
  });
  reactor.run();
  kill(getpid(), SIGTERM);  // when the reactor stopped by itself, the signal thread still waits
  signals.join();
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
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&stop_signals, signal);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  const fulgur::Status ended = fulgur::orchestrator::run(options, stop_signals);
  if (ended.is_ok()) return 0;
  fmt::print(stderr, "fulgur-orchestrator: {}\n", ended.message());
  return 1;
}
