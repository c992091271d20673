#include "services/router/router_metrics.hpp"

namespace fulgur::router {
namespace {

telemetry::Histogram::BucketBoundaries long_buckets_s() {
  return {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};
}

}  // namespace

RouterMetrics::RouterMetrics(const std::string& name)
    : metrics_("router", name),
      running(metrics_.gauge("fulgur_router_sequences_running",
                             "Sequences admitted and not yet ended")),
      shards_up(metrics_.gauge("fulgur_router_shards_up", "Attention shards with a live link")),
      prompt_tokens(metrics_.counter("fulgur_router_prompt_tokens_total",
                                     "Prompt tokens of admitted requests")),
      generated_tokens(metrics_.counter("fulgur_router_generated_tokens_total",
                                        "Tokens received from shards, each counted once")),
      resubmissions(metrics_.counter("fulgur_router_resubmissions_total",
                                     "Sequences continued on another shard")),
      moves(metrics_.counter("fulgur_router_moves_total",
                             "Sequences that followed their state to another shard")),
      disconnects(metrics_.counter("fulgur_router_disconnects_total",
                                   "Requests whose client went away")),
      first_token_s(metrics_.histogram("fulgur_router_first_token_seconds",
                                       "From the request's arrival to its first token",
                                       long_buckets_s())),
      inter_token_s(metrics_.histogram("fulgur_router_inter_token_seconds",
                                       "Between two tokens of a sequence",
                                       telemetry::latency_buckets_s())),
      request_s(metrics_.histogram("fulgur_router_request_seconds",
                                   "From the request's arrival to its end", long_buckets_s())) {
  metrics_.add_alias("vllm:num_requests_running", "fulgur_router_sequences_running");
}

void RouterMetrics::count_request(std::string_view api, int status) {
  metrics_
      .counter("fulgur_router_requests_total", "Requests answered",
               {{"api", std::string(api)}, {"status", std::to_string(status)}})
      .Increment();
}

}  // namespace fulgur::router
