// Plans as JSON: seconds, bytes and tokens, unrounded.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/planner/report.hpp"

namespace fulgur::planner {
namespace {

using Json = nlohmann::ordered_json;

Json layer_json(const AttentionTimes& attention, const StageTimes& stage) {
  return {{"attention_s", stage.attention},
          {"attention_dense_s", attention.dense},
          {"attention_core_s", attention.core},
          {"attention_other_s", attention.other},
          {"out_s", stage.out},
          {"out_latency_s", stage.out_latency},
          {"experts_s", stage.experts},
          {"back_s", stage.back},
          {"back_latency_s", stage.back_latency}};
}

Json working_json(const WorkingMemory& working) {
  return {{"device_bytes", working.device()}, {"activation_bytes", working.activations},
          {"scratch_bytes", working.scratch}, {"graph_bytes", working.graphs},
          {"process_bytes", working.process}, {"pinned_host_bytes", working.pinned}};
}

Json plan_json(const Plan& plan) {
  Json out;
  out["attention_devices"] = plan.split.attention;
  out["expert_devices"] = plan.split.experts;
  out["colocated"] = plan.split.colocated;
  out["micro_batches"] = plan.micro_batches;
  out["sequences"] = plan.sequences;
  out["tpot_s"] = plan.tpot;
  out["tokens_per_s"] = plan.tokens_per_s;
  out["tokens_per_s_device"] = plan.tokens_per_s_device();
  out["tokens_per_s_if_shards_never_meet"] = plan.tokens_per_s_alone;
  if (plan.tokens_per_s_arrival > 0) {
    out["tokens_per_s_started_apart"] = {{"arrival", plan.tokens_per_s_arrival},
                                         {"most_waiting", plan.tokens_per_s_most_waiting}};
  }
  out["bound_by"] = plan.memory_bound ? "memory" : "time";
  out["memory"] = {{"usable_bytes", plan.memory.usable},
                   {"attention_bytes", plan.memory.attention},
                   {"expert_bytes", plan.memory.experts},
                   {"sequences_max", plan.memory.sequences_max},
                   {"working",
                    {{"attention", working_json(plan.memory.shard)},
                     {"experts", working_json(plan.memory.worker)}}}};
  out["busy"] = {{"attention", plan.busy.attention / plan.tpot},
                 {"link", plan.busy.link / plan.tpot},
                 {"experts", plan.busy.experts / plan.tpot}};
  out["layers"] = {{"lightning", layer_json(plan.lightning_attention, plan.lightning)},
                   {"softmax", layer_json(plan.softmax_attention, plan.softmax)}};
  out["head_s"] = plan.head;
  return out;
}

Json request_json(const Request& request) {
  const SequenceBytes one = sequence_bytes(request);
  Json out;
  out["model"] = request.model.name;
  out["parameters"] = request.model.config.total_params();
  out["profile"] = request.profile.name;
  out["profile_status"] = request.profile.status;
  out["devices"] = request.devices;
  out["context"] = request.context;
  out["tpot_ms"] = request.tpot_ms;
  out["prompt"] = request.prompt;
  out["output"] = request.output;
  out["weights"] = request.fp8_experts ? "fp8" : "bf16";
  out["attention_weight_bytes"] = attention_bytes(request.model.config);
  out["batch_tokens"] = request.batch_tokens;
  out["batch_rows"] = request.batch_rows;
  out["expert_weight_bytes"] = expert_bytes(request);
  out["sequence"] = {
      {"state_bytes", one.state}, {"open_block_bytes", one.open_block}, {"kv_bytes", one.kv}};
  return out;
}

}  // namespace

std::string to_json(const Request& request, const Outcome& outcome, std::size_t alternatives) {
  Json out;
  out["request"] = request_json(request);
  out["feasible"] = outcome.feasible();
  out["plans"] = Json::array();
  const std::size_t count = std::min(outcome.plans.size(), alternatives + 1);
  for (std::size_t i = 0; i < count; ++i) out["plans"].push_back(plan_json(outcome.plans[i]));
  if (!outcome.why_not.empty()) out["why_not"] = outcome.why_not;
  if (!outcome.colocated.empty()) out["colocated"] = plan_json(outcome.colocated.front());
  if (!outcome.why_not_colocated.empty()) out["why_not_colocated"] = outcome.why_not_colocated;
  return out.dump(2);
}

}  // namespace fulgur::planner
