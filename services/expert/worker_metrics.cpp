#include "services/expert/worker_metrics.hpp"

#include "common/service/reactor_metrics.hpp"

namespace fulgur::expert {
namespace {

struct WorkerMetrics {
  explicit WorkerMetrics(telemetry::Metrics& metrics, const WeightStore& store)
      : reactor(metrics),
        dispatches(metrics.counter("fulgur_expert_dispatches_total", "Dispatches run")),
        rows(metrics.counter("fulgur_expert_routed_rows_total", "Routed (token, slot) rows run")),
        runs(metrics.counter("fulgur_expert_runs_total",
                             "Grouped products that ran them: rows over runs is the batch")),
        nacks(metrics.counter("fulgur_expert_nacks_total", "Dispatches refused by the front")),
        refused(metrics.counter("fulgur_expert_memory_refusals_total",
                                "Dispatches given back because their run was refused memory")),
        load_failures(metrics.counter("fulgur_expert_load_failures_total",
                                      "Replicas that could not be loaded")),
        allocations(metrics.counter(
            "fulgur_gpu_allocations_total",
            "Times that GPU or pinned memory was asked for; constant while serving")),
        busy(metrics.counter("fulgur_expert_busy_seconds_total", "Time spent in expert products"),
             telemetry::MirroredCounter::kPerNanosecond),
        queue(metrics.gauge("fulgur_expert_queue_depth", "Dispatches waiting")),
        held_bytes(metrics.gauge("fulgur_expert_held_bytes", "Expert weights held, as packed")),
        held(metrics.gauge("fulgur_expert_replicas", "Replicas held")),
        epoch(metrics.gauge("fulgur_placement_epoch", "Last placement epoch prepared here")) {
    for (std::uint32_t layer = 0; layer < store.layers(); ++layer) {
      for (std::uint32_t expert = 0; expert < store.experts(); ++expert) {
        tokens.emplace_back(metrics.counter(
            "fulgur_expert_tokens_total", "Routed rows per layer and expert",
            {{"layer", std::to_string(layer)}, {"expert", std::to_string(expert)}}));
      }
    }
  }

  service::ReactorMetrics reactor;
  telemetry::MirroredCounter dispatches;
  telemetry::MirroredCounter rows;
  telemetry::MirroredCounter runs;
  telemetry::MirroredCounter nacks;
  telemetry::MirroredCounter refused;
  telemetry::MirroredCounter load_failures;
  telemetry::MirroredCounter allocations;
  telemetry::MirroredCounter busy;
  telemetry::Gauge& queue;
  telemetry::Gauge& held_bytes;
  telemetry::Gauge& held;
  telemetry::Gauge& epoch;
  std::vector<telemetry::MirroredCounter> tokens;  ///< [layers * experts]
};

}  // namespace

std::function<void()> worker_metrics(telemetry::Metrics& metrics, actor::Reactor& reactor,
                                     Worker& worker, service::Admin& admin) {
  auto own = std::make_shared<WorkerMetrics>(metrics, *worker.store);
  return [own, &reactor, &worker, &admin] {
    const NodeLoad& load = worker.load;
    own->reactor.refresh(reactor, reactor.transport().stats());
    own->dispatches.set(load.load.requests_total);
    own->rows.set(load.load.tokens_total);
    own->runs.set(load.runs_total);
    own->nacks.set(load.nacks_total);
    own->refused.set(load.refused_total);
    own->load_failures.set(load.load_failures_total);
    own->allocations.set(worker.context.backend->allocations_total());
    own->busy.set(load.load.busy_ns_total);
    own->queue.Set(load.load.queue_depth);
    own->held_bytes.Set(static_cast<double>(worker.store->held_bytes()));
    own->held.Set(static_cast<double>(worker.store->held().size()));
    own->epoch.Set(static_cast<double>(worker.context.epoch));
    for (std::size_t at = 0; at < load.expert_tokens_total.size(); ++at) {
      own->tokens[at].set(load.expert_tokens_total[at]);
    }
    const bool ready = worker.context.epoch > 0 && !worker.context.draining;
    admin.set_ready(ready, worker.context.draining ? "draining"
                           : ready                 ? "ok"
                                                   : "no replicas assigned yet");
  };
}

}  // namespace fulgur::expert
