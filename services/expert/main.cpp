// fulgur-expert: one worker of an expert pool. This file is its wiring diagram.
#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "common/service/member.hpp"
#include "kernels/include/fulgur/kernels/make_backend.hpp"
#include "services/expert/worker.hpp"
#include "services/expert/worker_flags.hpp"
#include "services/expert/worker_metrics.hpp"

using namespace fulgur;

namespace {

constexpr const char* kProgram = "fulgur-expert";

int run(const service::Flags& flags, const expert::WorkerFlags& own) {
  service::Member member(kProgram, wire::ServiceKind::expert, flags);
  if (const Status opened = member.open(); !opened.is_ok()) return member.fail(opened);
  const auto precision =
      flags.dtype() == Dtype::f32 ? kernels::Precision::f32 : kernels::Precision::bf16;
  const kernels::BackendOptions kind{.kind = flags.backend,
                                     .precision = precision,
                                     .threads = flags.threads,
                                     .cpus = flags.cpus,
                                     .isa = flags.isa,
                                     .device = flags.gpu,
                                     .shape = member.checkpoint()->config().shape(),
                                     .expert_weights = kernels::expert_weights_of(own.weights)};
  auto backend = kernels::make_backend(kind);
  if (!backend.is_ok()) return member.fail(backend.status());
  kernels::BackendOptions packing = kind;
  packing.threads = 1;
  packing.cpus.clear();
  auto packer = kernels::make_backend(packing);
  if (!packer.is_ok()) return member.fail(packer.status());

  expert::WorkerOptions options;
  options.orchestrator = flags.orchestrator;
  options.registration = member.registration(own.capacity_bytes);
  options.tracer = member.tracer();
  options.registration.numerics = (*backend)->numerics();
  log::info("kernels={} numerics={}", (*backend)->name(), options.registration.numerics);
  options.pool = member.device_pool();
  expert::apply(own, options);
  options.on_left = [&] { member.left(); };
  options.on_fatal = [&](const std::string& why) { member.fatal(why); };
  std::unique_ptr<expert::Worker> worker;  // outlives the actors of the reactor
  actor::Reactor reactor(member.transport(), member.clock());
  auto started = expert::start_worker(reactor, member.checkpoint(), **backend, std::move(*packer),
                                      options);
  if (!started.is_ok()) return member.fail(started.status());
  worker = std::move(*started);
  service::refresh_periodically(
      reactor, expert::worker_metrics(member.metrics(), reactor, *worker, member.admin()));
  return member.serve(reactor, [&] { actor::tell(worker->node, expert::Leave{}); });
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  CLI::App app("Fulgur expert worker: runs (layer, expert) replicas for attention shards", kProgram);
  service::Flags flags;
  expert::WorkerFlags own;
  service::add_flags(app, flags);
  for (const char* flag : {"--listen", "--orchestrator"}) app.get_option(flag)->required();
  expert::add_worker_flags(app, own);
  if (auto code = service::parse(app, argc, argv)) return *code;
  log::init(flags.name, log::parse_level(flags.log_level));
  return run(flags, own);
}
