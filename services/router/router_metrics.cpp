#include "services/router/router_metrics.hpp"

#include <utility>

namespace fulgur::router {

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
                                       telemetry::first_token_buckets_s())),
      inter_token_s(metrics_.histogram("fulgur_router_inter_token_seconds",
                                       "Between two tokens of a sequence",
                                       telemetry::inter_token_buckets_s())),
      request_s(metrics_.histogram("fulgur_router_request_seconds",
                                   "From the request's arrival to its end",
                                   telemetry::request_buckets_s())) {
  const std::pair<const char*, const char*> aliases[] = {
      {"vllm:num_requests_running", "fulgur_router_sequences_running"},
      {"vllm:time_to_first_token_seconds", "fulgur_router_first_token_seconds"},
      {"vllm:inter_token_latency_seconds", "fulgur_router_inter_token_seconds"},
      {"vllm:e2e_request_latency_seconds", "fulgur_router_request_seconds"},
      {"vllm:prompt_tokens_total", "fulgur_router_prompt_tokens_total"},
      {"vllm:generation_tokens_total", "fulgur_router_generated_tokens_total"}};
  for (const auto& [alias, source] : aliases) metrics_.add_alias(alias, source);
}

void RouterMetrics::count_request(std::string_view api, int status) {
  metrics_
      .counter("fulgur_router_requests_total", "Requests answered",
               {{"api", std::string(api)}, {"status", std::to_string(status)}})
      .Increment();
}

}  // namespace fulgur::router
