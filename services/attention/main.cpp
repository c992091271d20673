// fulgur-attention: one attention shard. This file is its wiring diagram.
#include <unistd.h>

#include <atomic>

#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "common/service/service.hpp"
#include "common/transport/make_transport.hpp"
#include "services/attention/messages.hpp"
#include "services/attention/shard.hpp"
#include "services/attention/shard_metrics.hpp"

using namespace fulgur;

namespace {

constexpr const char* kProgram = "fulgur-attention";

int run(const service::Flags& flags, attention::SchedulerOptions scheduler) {
  const RealClock clock;
  std::atomic<actor::Reactor*> running{nullptr};  // read by the signal thread
  attention::Shard* leaving = nullptr;
  service::SignalWatch signals([&] {
    if (actor::Reactor* reactor = running.load()) {
      reactor->post([&] { actor::tell(leaving->engine_actor, attention::Leave{}); });
    } else {
      _exit(0);  // nothing is served yet, or no more
    }
  });

  auto checkpoint = model::Checkpoint::open(flags.model);
  if (!checkpoint.is_ok()) return service::fail(kProgram, checkpoint.status());
  telemetry::Metrics metrics("attention", flags.name);
  auto admin = service::Admin::start(flags.admin, metrics);
  if (!admin.is_ok()) return service::fail(kProgram, admin.status());
  const std::uint64_t incarnation = service::new_incarnation(clock);
  transport::TransportOptions links;
  links.listen = flags.listen;
  links.allowed = flags.carrier();
  auto transport =
      transport::make_transport({wire::ServiceKind::attention, flags.name, incarnation}, links);
  if (!transport.is_ok()) return service::fail(kProgram, transport.status());

  // After the threads of the transport and the admin server: those must not inherit its pinning.
  const auto precision =
      flags.dtype() == Dtype::f32 ? kernels::Precision::f32 : kernels::Precision::bf16;
  auto backend = kernels::make_cpu_backend({precision, flags.threads, flags.cpus, ""});
  if (!backend.is_ok()) return service::fail(kProgram, backend.status());

  int exit_code = 0;
  attention::ShardOptions options;
  options.orchestrator = flags.orchestrator;
  options.expert_carrier = flags.carrier();
  options.scheduler = scheduler;
  options.dispatch.dtype = flags.dtype();
  options.registration = {wire::ServiceKind::attention, flags.name, incarnation,
                          static_cast<std::uint32_t>(getpid()), (*transport)->endpoint(),
                          (*admin)->endpoint(), (*checkpoint)->fingerprint(),
                          (*checkpoint)->weight_version(),
                          "cpu-" + flags.activations, 0, 0, {}};
  options.on_left = [&] { running.load()->stop(); };
  options.on_fatal = [&](const std::string& why) {
    exit_code = service::fail(kProgram, error(Code::failed_precondition, "{}", why));
    running.load()->stop();
  };
  std::unique_ptr<attention::Shard> shard;
  actor::Reactor reactor(**transport, clock);
  auto started = attention::start_shard(reactor, **checkpoint, **backend, options);
  if (!started.is_ok()) return service::fail(kProgram, started.status());
  shard = std::move(*started);
  leaving = shard.get();
  running = &reactor;
  service::refresh_periodically(reactor, attention::shard_metrics(metrics, reactor, *shard, **admin));
  log::info("serving endpoint={} admin={} state_bytes={}", (*transport)->endpoint(),
            (*admin)->endpoint(), shard->state_bytes);
  reactor.run();
  running = nullptr;
  (*admin)->server().shutdown(kSecond);
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  CLI::App app("Fulgur attention shard: all attention layers, embedding, LM head, sampler", kProgram);
  service::Flags flags;
  attention::SchedulerOptions scheduler;
  std::uint64_t kv_tokens = 65536;
  service::add_flags(app, flags);
  app.add_option("--max-sequences", scheduler.slots, "sequences with state")->check(CLI::Range(1, 65536))->capture_default_str();
  app.add_option("--kv-tokens", kv_tokens, "tokens of softmax KV in all")->check(CLI::Range(64, 1 << 30))->capture_default_str();
  app.add_option("--batch-tokens", scheduler.batch_tokens, "token budget of a micro-batch")->check(CLI::Range(1, 65536))->capture_default_str();
  app.add_option("--micro-batches", scheduler.lanes, "micro-batches in flight")->check(CLI::Range(1, 16))->capture_default_str();
  app.add_option("--max-waiting", scheduler.waiting_max, "requests queued at most")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  if (auto code = service::parse(app, argc, argv)) return *code;
  scheduler.pages = static_cast<std::uint32_t>((kv_tokens + kernels::kPageTokens - 1) / kernels::kPageTokens);
  log::init(flags.name, log::parse_level(flags.log_level));
  return run(flags, scheduler);
}
