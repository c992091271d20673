#include "cli/mesh_plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace fulgur::cli {
namespace {

class Planner {
 public:
  Planner(const UpOptions& options, const MeshPaths& paths, const std::vector<int>& cpus)
      : options_(options), paths_(paths), cpus_(cpus) {}

  ServicePlan orchestrator() const {
    ServicePlan plan = base("orchestrator", "orchestrator");
    append(plan, {"--replicas", std::to_string(options_.replicas)});
    append(plan, {"--expect-experts", std::to_string(options_.experts)});
    append(plan, {"--expect-attention", std::to_string(options_.attention)});
    append(plan, {"--rebalance-interval", fmt::format("{}", options_.rebalance_interval_s)});
    append(plan, {"--spare", fmt::format("{}", options_.spare)});
    append(plan, {"--max-experts", std::to_string(options_.max_experts)});
    append(plan, {"--max-attention", std::to_string(options_.max_attention)});
    return plan;
  }
  ServicePlan expert(std::uint32_t index) const {
    ServicePlan plan = member("expert", fmt::format("expert-{}", index));
    append(plan, {"--transport", options_.transport, "--activations", options_.activations});
    pin(plan, cpu_slice(cpus_, index % options_.experts, options_.experts), 0);
    place(plan, options_.attention + index);
    if (options_.expert_weights != "bf16") {
      append(plan, {"--expert-weights", options_.expert_weights});
    }
    return plan;
  }
  ServicePlan attention(std::uint32_t index) const {
    ServicePlan plan = member("attention", fmt::format("attention-{}", index));
    append(plan, {"--transport", options_.transport, "--activations", options_.activations,
                  "--kv-tokens", std::to_string(kKvTokens), "--prefix-cache-bytes",
                  std::to_string(options_.prefix_cache_bytes)});
    pin(plan, cpu_slice(cpus_, index % options_.attention, options_.attention), options_.threads);
    place(plan, index);
    return plan;
  }
  ServicePlan router() const {
    ServicePlan plan = member("router", "router-0");
    append(plan, {"--host", options_.host, "--port", std::to_string(options_.port),
                  "--max-context", std::to_string(kKvTokens)});
    if (options_.trace_sample) {
      append(plan, {"--trace-sample", fmt::format("{}", *options_.trace_sample)});
    }
    return plan;
  }

 private:
  static void append(ServicePlan& plan, std::vector<std::string> more) {
    plan.arguments.insert(plan.arguments.end(), more.begin(), more.end());
  }
  ServicePlan base(const std::string& kind, const std::string& name) const {
    ServicePlan plan{kind, name, "fulgur-" + kind, paths_.socket_prefix + name + ".sock", {}};
    append(plan, {"--name", name, "--listen", plan.endpoint, "--model", paths_.model, "--log-level",
                  options_.log_level});
    if (!paths_.curve_key.empty()) append(plan, {"--curve-key-file", paths_.curve_key});
    return plan;
  }
  ServicePlan member(const std::string& kind, const std::string& name) const {
    ServicePlan plan = base(kind, name);
    append(plan, {"--orchestrator", paths_.socket_prefix + "orchestrator.sock", "--admin",
                  "127.0.0.1:0"});
    if (!options_.otlp_endpoint.empty()) append(plan, {"--otlp-endpoint", options_.otlp_endpoint});
    return plan;
  }
  static void pin(ServicePlan& plan, const std::vector<int>& cpus, std::uint32_t threads) {
    append(plan, {"--threads", std::to_string(threads > 0 ? threads : cpus.size()), "--cpus",
                  fmt::format("{}", fmt::join(cpus, ","))});
  }

  /// The backend of the turn-th process that computes.
  void place(ServicePlan& plan, std::size_t turn) const {
    append(plan, {"--backend", options_.backend, "--isa", options_.isa});
    if (options_.backend != "cuda" || options_.gpus.empty()) return;
    append(plan, {"--gpu", std::to_string(options_.gpus[turn % options_.gpus.size()])});
  }

  const UpOptions& options_;
  const MeshPaths& paths_;
  const std::vector<int>& cpus_;
};

}  // namespace

std::vector<int> cpu_slice(const std::vector<int>& cpus, std::size_t index, std::size_t count) {
  if (count >= cpus.size()) return {cpus[index % cpus.size()]};
  const std::size_t begin = index * cpus.size() / count;
  const std::size_t end = (index + 1) * cpus.size() / count;
  return {cpus.begin() + static_cast<std::ptrdiff_t>(begin),
          cpus.begin() + static_cast<std::ptrdiff_t>(end)};
}

ServicePlan plan_service(const UpOptions& options, const MeshPaths& paths,
                         const std::vector<int>& cpus, const std::string& kind,
                         std::uint32_t index) {
  const Planner planner(options, paths, cpus);
  return kind == "expert" ? planner.expert(index) : planner.attention(index);
}

std::vector<ServicePlan> plan_mesh(const UpOptions& options, const MeshPaths& paths,
                                   const std::vector<int>& cpus) {
  const Planner planner(options, paths, cpus);
  std::vector<ServicePlan> plans{planner.orchestrator()};
  for (std::uint32_t i = 0; i < options.experts; ++i) plans.push_back(planner.expert(i));
  for (std::uint32_t i = 0; i < options.attention; ++i) plans.push_back(planner.attention(i));
  plans.push_back(planner.router());
  return plans;
}

}  // namespace fulgur::cli
