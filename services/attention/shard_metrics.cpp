#include "services/attention/shard_metrics.hpp"

#include "common/service/reactor_metrics.hpp"

namespace fulgur::attention {
namespace {

/// A total kept elsewhere and the counter that shows it.
struct Mirror {
  telemetry::MirroredCounter counter;
  std::function<std::uint64_t(const Shard&)> read;
};

struct Reading {
  telemetry::Gauge& gauge;
  std::function<double(const Shard&)> read;
};

struct ShardMetrics {
  explicit ShardMetrics(telemetry::Metrics& metrics)
      : reactor(metrics),
        wait(metrics.histogram("fulgur_request_queue_seconds",
                               "From a request's arrival at the shard to its first micro-batch",
                               telemetry::request_buckets_s())),
        rows(metrics.histogram("fulgur_micro_batch_rows", "Token rows of a micro-batch",
                               telemetry::row_buckets())) {
    add_engine(metrics);
    add_dispatch(metrics);
    add_busy(metrics);
    add_state(metrics);
    add_migration(metrics);
    add_aliases(metrics);
  }

  static void add_aliases(telemetry::Metrics& metrics) {
    const std::pair<const char*, const char*> aliases[] = {
        {"vllm:num_requests_running", "fulgur_requests_running"},
        {"vllm:num_requests_waiting", "fulgur_requests_waiting"},
        {"vllm:kv_cache_usage_perc", "fulgur_kv_usage_ratio"},
        {"vllm:cache_config_info", "fulgur_kv_config_info"},
        {"vllm:request_queue_time_seconds", "fulgur_request_queue_seconds"},
        {"vllm:num_preemptions_total", "fulgur_preemptions_total"}};
    for (const auto& [alias, source] : aliases) metrics.add_alias(alias, source);
  }

  void count(telemetry::Metrics& metrics, const char* name, const char* help,
             std::function<std::uint64_t(const Shard&)> read, const telemetry::Labels& labels = {},
             double unit = 1) {
    mirrors.push_back({telemetry::MirroredCounter(metrics.counter(name, help, labels), unit),
                       std::move(read)});
  }

  void show(telemetry::Metrics& metrics, const char* name, const char* help,
            std::function<double(const Shard&)> read) {
    readings.push_back({metrics.gauge(name, help), std::move(read)});
  }

  void add_engine(telemetry::Metrics& metrics) {
    count(metrics, "fulgur_requests_total", "Requests submitted to this shard",
          [](const Shard& shard) { return shard.engine->stats().requests_total; });
    count(metrics, "fulgur_generated_tokens_total", "Tokens sampled",
          [](const Shard& shard) { return shard.engine->stats().generated_tokens_total; });
    count(metrics, "fulgur_prompt_tokens_total", "Prompt tokens of requests that began to answer",
          [](const Shard& shard) { return shard.engine->stats().prompt_tokens_total; });
    count(metrics, "fulgur_micro_batches_total", "Micro-batches sent through the layers",
          [](const Shard& shard) { return shard.engine->stats().micro_batches_total; });
    count(metrics, "fulgur_micro_batch_rows_total", "Token rows in those micro-batches",
          [](const Shard& shard) { return shard.engine->stats().rows_total; });
    count(metrics, "fulgur_preemptions_total", "Sequences moved to host memory for lack of pages",
          [](const Shard& shard) { return shard.engine->scheduler().preemptions(); });
    count(metrics, "fulgur_memory_refusals_total",
          "Micro-batches whose sequences started over because a step was refused memory",
          [](const Shard& shard) { return shard.engine->stats().memory_refusals_total; });
    count(metrics, "fulgur_gpu_allocations_total",
          "Times that GPU or pinned memory was asked for; constant while serving",
          [](const Shard& shard) { return shard.backend->allocations_total(); });
    count(metrics, "fulgur_gpu_graphs_captured_total", "CUDA graphs made of attention blocks",
          [](const Shard& shard) { return shard.backend->graph_counts().captured; });
    count(metrics, "fulgur_gpu_graphs_replayed_total", "Attention blocks that ran as one graph",
          [](const Shard& shard) { return shard.backend->graph_counts().replayed; });
    count(metrics, "fulgur_gpu_graphs_refused_total",
          "CUDA graphs not made or not run, mostly for want of memory",
          [](const Shard& shard) { return shard.backend->graph_counts().refused; });
    count(metrics, "fulgur_gpu_graphs_bytes_total",
          "GPU memory that the driver took while CUDA graphs were made",
          [](const Shard& shard) { return shard.backend->graph_counts().bytes; });
    const std::pair<const char*, std::size_t> reasons[] = {
        {"stop", 0}, {"length", 1}, {"cancelled", 2}, {"error", 3}};
    for (const auto& [reason, at] : reasons) {
      count(metrics, "fulgur_requests_finished_total", "Requests that ended, by reason",
            [at = at](const Shard& shard) { return shard.engine->stats().finished_total[at]; },
            {{"reason", reason}});
    }
  }

  void add_dispatch(telemetry::Metrics& metrics) {
    count(metrics, "fulgur_dispatches_total", "Dispatches sent to expert workers",
          [](const Shard& shard) { return shard.dispatch_stats.dispatches_total; });
    count(metrics, "fulgur_dispatch_routes_total", "(token, slot) pairs routed to experts",
          [](const Shard& shard) { return shard.dispatch_stats.routes_total; });
    count(metrics, "fulgur_dispatch_expert_groups_total",
          "(expert, dispatch) pairs: each reads one expert's weights",
          [](const Shard& shard) { return shard.dispatch_stats.expert_groups_total; });
    count(metrics, "fulgur_dispatch_retries_total", "Dispatches sent again to another replica",
          [](const Shard& shard) { return shard.dispatch_stats.retries_total; });
    count(metrics, "fulgur_dispatch_nacks_total", "Dispatches a worker refused",
          [](const Shard& shard) { return shard.dispatch_stats.nacks_total; });
    count(metrics, "fulgur_dispatch_overdue_total",
          "Dispatches asked of another replica because their answer was overdue",
          [](const Shard& shard) { return shard.dispatch_stats.overdue_total; });
    count(metrics, "fulgur_dispatch_parked_total", "Times routes waited for a live replica",
          [](const Shard& shard) { return shard.dispatch_stats.parked_total; });
    count(metrics, "fulgur_dispatch_unpacked_total",
          "Dispatches that there was no memory to pack, tried again later",
          [](const Shard& shard) { return shard.dispatch_stats.unpacked_total; });
    count(metrics, "fulgur_workers_lost_total", "Links to expert workers that went down",
          [](const Shard& shard) { return shard.dispatch_stats.workers_lost_total; });
    count(metrics, "fulgur_dispatch_round_trip_seconds_total",
          "Dispatch to combine, summed over dispatches",
          [](const Shard& shard) { return shard.dispatch_stats.round_trip_us_total; }, {},
          telemetry::MirroredCounter::kPerMicrosecond);
    count(metrics, "fulgur_dispatch_queue_seconds_total", "Of that, in workers' mailboxes",
          [](const Shard& shard) { return shard.dispatch_stats.queue_us_total; }, {},
          telemetry::MirroredCounter::kPerMicrosecond);
    count(metrics, "fulgur_dispatch_compute_seconds_total", "Of that, in expert products",
          [](const Shard& shard) { return shard.dispatch_stats.compute_us_total; }, {},
          telemetry::MirroredCounter::kPerMicrosecond);
  }

  void add_busy(telemetry::Metrics& metrics) {
    const std::pair<const char*, Nanoseconds BusyTime::*> parts[] = {
        {"lightning", &BusyTime::lightning},
        {"softmax", &BusyTime::softmax},
        {"combine", &BusyTime::combine},
        {"head", &BusyTime::head}};
    for (const auto& [part, member] : parts) {
      count(metrics, "fulgur_attention_busy_seconds_total", "Time the shard computed, by part",
            [member = member](const Shard& shard) {
              return static_cast<std::uint64_t>(shard.busy.*member);
            },
            {{"part", part}}, telemetry::MirroredCounter::kPerNanosecond);
    }
    const std::pair<const char*, Nanoseconds BubbleTime::*> kinds[] = {
        {"lightning", &BubbleTime::lightning}, {"softmax", &BubbleTime::softmax}};
    for (const auto& [kind, member] : kinds) {
      count(metrics, "fulgur_pipeline_bubble_seconds_total",
            "Time the shard had nothing to compute until experts answered, by the layer's kind",
            [member = member](const Shard& shard) {
              return static_cast<std::uint64_t>(shard.bubble.*member);
            },
            {{"kind", kind}}, telemetry::MirroredCounter::kPerNanosecond);
    }
  }

  void add_state(telemetry::Metrics& metrics) {
    show(metrics, "fulgur_requests_running", "Sequences that hold state",
         [](const Shard& shard) { return shard.engine->scheduler().running(); });
    show(metrics, "fulgur_requests_waiting", "Sequences queued or preempted",
         [](const Shard& shard) { return shard.engine->scheduler().waiting(); });
    show(metrics, "fulgur_kv_pages_used", "KV pages in use",
         [](const Shard& shard) { return shard.engine->scheduler().pages().used(); });
    show(metrics, "fulgur_kv_pages", "KV pages in all",
         [](const Shard& shard) { return shard.engine->scheduler().pages().total(); });
    show(metrics, "fulgur_kv_usage_ratio", "Used share of KV pages, 0 to 1", [](const Shard& shard) {
      const FreeList& pages = shard.engine->scheduler().pages();
      return static_cast<double>(pages.used()) / std::max(1U, pages.total());
    });
    show(metrics, "fulgur_state_slots_used", "Lightning state slots in use",
         [](const Shard& shard) { return shard.engine->scheduler().slots().used(); });
    show(metrics, "fulgur_state_slots", "Lightning state slots in all",
         [](const Shard& shard) { return shard.engine->scheduler().slots().total(); });
    show(metrics, "fulgur_state_bytes", "Memory set aside for sequence state",
         [](const Shard& shard) { return static_cast<double>(shard.state_bytes); });
  }

  void add_migration(telemetry::Metrics& metrics) {
    const std::pair<const char*, std::uint64_t EvacuationStats::*> left[] = {
        {"moved", &EvacuationStats::moved_total},
        {"handed_back", &EvacuationStats::handed_total},
        {"refused", &EvacuationStats::refused_total},
        {"broken", &EvacuationStats::broken_total},
        {"ended", &EvacuationStats::ended_total}};
    for (const auto& [result, member] : left) {
      count(metrics, "fulgur_migrations_out_total",
            "Sequences this shard gave to others while it drained, and attempts, by result",
            [member = member](const Shard& shard) { return shard.evacuation_stats.*member; },
            {{"result", result}});
    }
    const std::pair<const char*, std::uint64_t ParkedStats::*> came[] = {
        {"parked", &ParkedStats::parked_total},       {"restored", &ParkedStats::restored_total},
        {"missed", &ParkedStats::missed_total},       {"refused", &ParkedStats::refused_total},
        {"malformed", &ParkedStats::malformed_total}, {"lost", &ParkedStats::lost_total},
        {"expired", &ParkedStats::expired_total}};
    for (const auto& [result, member] : came) {
      count(metrics, "fulgur_migrations_in_total",
            "States of sequences that other shards offered to this one, by what became of them",
            [member = member](const Shard& shard) { return shard.engine->parked().stats().*member; },
            {{"result", result}});
    }
    count(metrics, "fulgur_migration_sent_bytes_total", "State sent to other shards",
          [](const Shard& shard) { return shard.evacuation_stats.bytes_total; });
    count(metrics, "fulgur_migration_received_bytes_total", "State received from other shards",
          [](const Shard& shard) { return shard.engine->parked().stats().bytes_total; });
    count(metrics, "fulgur_migration_pause_seconds_total",
          "From a sequence's last step here until another shard had its state, summed",
          [](const Shard& shard) { return shard.evacuation_stats.pause_ns_total; }, {},
          telemetry::MirroredCounter::kPerNanosecond);
    add_cache(metrics);
    show(metrics, "fulgur_parked_bytes", "Memory of states that other shards handed over",
         [](const Shard& shard) { return static_cast<double>(shard.engine->parked().bytes()); });
  }

  void add_cache(telemetry::Metrics& metrics) {
    const std::tuple<const char*, const char*, std::uint64_t PrefixCacheStats::*> totals[] = {
        {"fulgur_prefix_hits_total", "Prompts that went on from a cached state",
         &PrefixCacheStats::hits_total},
        {"fulgur_prefix_misses_total", "Prompts of a block and more that found none",
         &PrefixCacheStats::misses_total},
        {"fulgur_prefix_hit_tokens_total", "Prompt tokens not computed thanks to that",
         &PrefixCacheStats::hit_tokens_total},
        {"fulgur_prefix_evictions_total", "Cached states dropped to make room",
         &PrefixCacheStats::evicted_total}};
    for (const auto& [name, help, member] : totals) {
      count(metrics, name, help,
            [member = member](const Shard& shard) { return shard.engine->cache().stats().*member; });
    }
    show(metrics, "fulgur_prefix_cache_bytes", "Memory of cached prompt states",
         [](const Shard& shard) { return static_cast<double>(shard.engine->cache().bytes()); });
  }

  service::ReactorMetrics reactor;
  telemetry::MirroredHistogram wait;
  telemetry::MirroredHistogram rows;
  std::vector<Mirror> mirrors;
  std::vector<Reading> readings;
};

}  // namespace

std::function<void()> shard_metrics(telemetry::Metrics& metrics, actor::Reactor& reactor,
                                    Shard& shard, service::Admin& admin) {
  auto own = std::make_shared<ShardMetrics>(metrics);
  metrics
      .gauge("fulgur_kv_config_info", "Tokens of a KV page and number of pages; always 1",
             {{"block_size", std::to_string(kernels::kPageTokens)},
              {"num_gpu_blocks", std::to_string(shard.options.scheduler.pages)}})
      .Set(1);
  return [own, &reactor, &shard, &admin] {
    own->reactor.refresh(reactor, reactor.transport().stats());
    own->wait.set(shard.engine->stats().wait_s);
    own->rows.set(shard.engine->stats().micro_batch_rows);
    for (auto& mirror : own->mirrors) mirror.counter.set(mirror.read(shard));
    for (auto& reading : own->readings) reading.gauge.Set(reading.read(shard));
    admin.set_ready(shard.experts_reachable,
                    shard.experts_reachable ? "ok" : "not every expert has a reachable replica");
  };
}

}  // namespace fulgur::attention
