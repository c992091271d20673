// fulgur-attention: one attention shard. This file is its wiring diagram.
#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "common/service/member.hpp"
#include "kernels/include/fulgur/kernels/make_backend.hpp"
#include "services/attention/messages.hpp"
#include "services/attention/shard.hpp"
#include "services/attention/shard_metrics.hpp"

using namespace fulgur;

namespace {

constexpr const char* kProgram = "fulgur-attention";

int run(const service::Flags& flags, attention::ShardOptions options) {
  service::Member member(kProgram, wire::ServiceKind::attention, flags);
  if (const Status opened = member.open(); !opened.is_ok()) return member.fail(opened);
  const auto precision =
      flags.dtype() == Dtype::f32 ? kernels::Precision::f32 : kernels::Precision::bf16;
  const kernels::BackendOptions kind{.kind = flags.backend,
                                     .precision = precision,
                                     .threads = flags.threads,
                                     .cpus = flags.cpus,
                                     .isa = flags.isa,
                                     .device = flags.gpu,
                                     .shape = member.checkpoint()->config().shape()};
  auto backend = kernels::make_backend(kind);
  if (!backend.is_ok()) return member.fail(backend.status());

  options.orchestrator = flags.orchestrator;
  options.expert_carrier = flags.carrier();
  options.dispatch.dtype = flags.dtype();
  options.registration = member.registration();
  options.tracer = member.tracer();
  options.registration.numerics = (*backend)->numerics();
  log::info("kernels={} numerics={}", (*backend)->name(), options.registration.numerics);
  options.pool = member.device_pool();
  options.on_left = [&] { member.left(); };
  options.on_fatal = [&](const std::string& why) { member.fatal(why); };
  std::unique_ptr<attention::Shard> shard;  // outlives the actors of the reactor
  actor::Reactor reactor(member.transport(), member.clock());
  auto started = attention::start_shard(reactor, *member.checkpoint(), **backend, options);
  if (!started.is_ok()) return member.fail(started.status());
  shard = std::move(*started);
  log::info("state_bytes={}", shard->state_bytes);
  service::refresh_periodically(
      reactor, attention::shard_metrics(member.metrics(), reactor, *shard, member.admin()));
  return member.serve(reactor, [&] { actor::tell(shard->engine_actor, attention::Leave{}); });
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  CLI::App app("Fulgur attention shard: all attention layers, embedding, LM head, sampler", kProgram);
  service::Flags flags;
  attention::ShardOptions options;
  attention::SchedulerOptions& scheduler = options.scheduler;
  std::uint64_t kv_tokens = 65536;
  std::uint32_t drain_timeout_s = 30;
  service::add_flags(app, flags);
  for (const char* flag : {"--listen", "--orchestrator"}) app.get_option(flag)->required();
  app.add_option("--max-sequences", scheduler.slots, "sequences with state")->check(CLI::Range(1, 65536))->capture_default_str();
  app.add_option("--kv-tokens", kv_tokens, "tokens of softmax KV in all")->check(CLI::Range(64, 1 << 30))->capture_default_str();
  app.add_option("--batch-tokens", scheduler.batch_tokens, "token budget of a micro-batch")->check(CLI::Range(1, 65536))->capture_default_str();
  app.add_option("--micro-batches", scheduler.lanes, "micro-batches in flight")->check(CLI::Range(1, 16))->capture_default_str();
  app.add_option("--max-waiting", scheduler.waiting_max, "requests queued at most")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--parked-bytes", options.parked.bytes_max, "memory for states of sequences that other shards hand over")->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 44))->capture_default_str();
  app.add_option("--prefix-cache-bytes", options.cache.bytes_max, "memory for states of prompts, restored where another begins the same; 0: none")->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 44))->capture_default_str();
  app.add_option("--drain-timeout", drain_timeout_s, "seconds to move sequences away, or finish them, before leaving")->check(CLI::Range(0, 86400))->capture_default_str();
  if (auto code = service::parse(app, argc, argv)) return *code;
  scheduler.pages = static_cast<std::uint32_t>((kv_tokens + kernels::kPageTokens - 1) / kernels::kPageTokens);
  options.evacuation.grace = drain_timeout_s * kSecond;
  log::init(flags.name, log::parse_level(flags.log_level));
  return run(flags, std::move(options));
}
