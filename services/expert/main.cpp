// fulgur-expert: one worker of an expert pool. This file is its wiring diagram.
#include <unistd.h>

#include <atomic>

#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "common/service/service.hpp"
#include "common/transport/make_transport.hpp"
#include "services/expert/worker.hpp"
#include "services/expert/worker_metrics.hpp"

using namespace fulgur;

namespace {

constexpr const char* kProgram = "fulgur-expert";

int run(const service::Flags& flags, std::uint64_t capacity_bytes) {
  const RealClock clock;
  std::atomic<actor::Reactor*> running{nullptr};  // read by the signal thread
  expert::Worker* leaving = nullptr;
  service::SignalWatch signals([&] {
    if (actor::Reactor* reactor = running.load()) {
      reactor->post([&] { actor::tell(leaving->node, expert::Leave{}); });
    } else {
      _exit(0);  // nothing is served yet, or no more
    }
  });

  auto checkpoint = model::Checkpoint::open(flags.model);
  if (!checkpoint.is_ok()) return service::fail(kProgram, checkpoint.status());
  telemetry::Metrics metrics("expert", flags.name);
  auto admin = service::Admin::start(flags.admin, metrics);
  if (!admin.is_ok()) return service::fail(kProgram, admin.status());
  const std::uint64_t incarnation = service::new_incarnation(clock);
  transport::TransportOptions links;
  links.listen = flags.listen;
  links.allowed = flags.carrier();
  auto transport =
      transport::make_transport({wire::ServiceKind::expert, flags.name, incarnation}, links);
  if (!transport.is_ok()) return service::fail(kProgram, transport.status());

  // After the threads of the transport and the admin server: those must not inherit its pinning.
  const auto precision =
      flags.dtype() == Dtype::f32 ? kernels::Precision::f32 : kernels::Precision::bf16;
  auto backend = kernels::make_cpu_backend({precision, flags.threads, flags.cpus, ""});
  if (!backend.is_ok()) return service::fail(kProgram, backend.status());
  auto packer = kernels::make_cpu_backend({precision, 1, {}, ""});
  if (!packer.is_ok()) return service::fail(kProgram, packer.status());

  int exit_code = 0;
  expert::WorkerOptions options;
  options.orchestrator = flags.orchestrator;
  options.registration = {wire::ServiceKind::expert, flags.name, incarnation,
                          static_cast<std::uint32_t>(getpid()), (*transport)->endpoint(),
                          (*admin)->endpoint(), (*checkpoint)->fingerprint(),
                          (*checkpoint)->weight_version(),
                          "cpu-" + flags.activations, capacity_bytes,
                          0, {}};
  options.on_left = [&] { running.load()->stop(); };
  options.on_fatal = [&](const std::string& why) {
    exit_code = service::fail(kProgram, error(Code::failed_precondition, "{}", why));
    running.load()->stop();
  };
  std::unique_ptr<expert::Worker> worker;
  actor::Reactor reactor(**transport, clock);
  auto started = expert::start_worker(reactor, *checkpoint, **backend, std::move(*packer), options);
  if (!started.is_ok()) return service::fail(kProgram, started.status());
  worker = std::move(*started);
  leaving = worker.get();
  running = &reactor;
  service::refresh_periodically(reactor, expert::worker_metrics(metrics, reactor, *worker, **admin));
  log::info("serving endpoint={} admin={}", (*transport)->endpoint(), (*admin)->endpoint());
  reactor.run();
  running = nullptr;
  (*admin)->server().shutdown(kSecond);
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  CLI::App app("Fulgur expert worker: runs (layer, expert) replicas for attention shards", kProgram);
  service::Flags flags;
  std::uint64_t capacity_bytes = 0;
  service::add_flags(app, flags);
  app.add_option("--capacity-bytes", capacity_bytes, "expert weights this worker may hold; 0: no limit");
  if (auto code = service::parse(app, argc, argv)) return *code;
  log::init(flags.name, log::parse_level(flags.log_level));
  return run(flags, capacity_bytes);
}
