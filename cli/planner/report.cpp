#include "cli/planner/report.hpp"

#include <algorithm>
#include <iterator>

namespace fulgur::planner {
namespace {

using Out = std::back_insert_iterator<std::string>;

constexpr double kGiga = 1e9;
constexpr double kMega = 1e6;
constexpr double kMilli = 1e-3;
constexpr double kMicro = 1e-6;

/// 1234567.8 as "1,234,568"; one decimal place below 100.
std::string grouped(double value) {
  if (value < 100) return fmt::format("{:.1f}", value);
  std::string digits = fmt::format("{:.0f}", value);
  for (std::size_t at = digits.size(); at > 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string split_text(const Split& split) {
  return split.colocated ? std::to_string(split.attention)
                         : fmt::format("{}:{}", split.attention, split.experts);
}

void print_question(Out to, const Request& request) {
  const auto& config = request.model.config;
  fmt::format_to(to,
                 "model        {}: {:.1f} B parameters, {} lightning + {} softmax layers, {} "
                 "experts top-{}\n",
                 request.model.name, static_cast<double>(config.total_params()) / kGiga,
                 config.layers_of(model::AttentionKind::lightning),
                 config.layers_of(model::AttentionKind::softmax), config.experts,
                 config.experts_per_token);
  fmt::format_to(to, "devices      {} x {} ({}, {:g} GB): {}\n", request.devices,
                 request.profile.name, request.profile.title, request.profile.memory_gb,
                 request.profile.status);
  fmt::format_to(to, "wanted       context {:.0f}, at most {:g} ms a token", request.context,
                 request.tpot_ms);
  if (request.prompt > 0) {
    fmt::format_to(to, ", {:.0f} prompt tokens for {:.0f} generated", request.prompt,
                   request.output);
  }
  fmt::format_to(to, "\n");
  if (request.fp8_experts) {
    fmt::format_to(
        to,
        "experts in fp8: half the bytes at the same rate (measured: 1.85 to 1.96 times up "
        "to 1,024 tokens,\n               1.62 at one; beyond, products bound it and "
        "this is too fast)\n");
  }
}

void print_memory(Out to, const Request& request) {
  const auto& config = request.model.config;
  const SequenceBytes one = sequence_bytes(request);
  const double experts = static_cast<double>(config.layers) * config.experts;
  const auto expert = static_cast<double>(expert_bytes(request));
  fmt::format_to(to,
                 "weights      attention {:.1f} GB on every attention device; experts {:.1f} GB, "
                 "{:.1f} GB with {:.0f} % spare\n",
                 static_cast<double>(attention_bytes(config)) / kGiga, experts * expert / kGiga,
                 experts * (1 + request.spare) * expert / kGiga, request.spare * 100);
  fmt::format_to(to, "a sequence   {:.1f} MB: state {:.1f}, open blocks {:.1f}, KV {:.1f}\n",
                 static_cast<double>(one.sum()) / kMega, static_cast<double>(one.state) / kMega,
                 static_cast<double>(one.open_block) / kMega, static_cast<double>(one.kv) / kMega);
}

void print_layer(Out to, const char* name, const AttentionTimes& attention,
                 const StageTimes& stage) {
  const auto us = [](double seconds) { return seconds / kMicro; };
  fmt::format_to(to, "  {:<10} {:>9.1f} {:>8.1f} {:>8.1f} {:>8.1f} {:>9.1f} {:>9.1f} {:>9.1f}\n",
                 name, us(stage.attention), us(attention.dense), us(attention.core),
                 us(attention.other), us(stage.out + stage.out_latency), us(stage.experts),
                 us(stage.back + stage.back_latency));
}

void print_busy(Out to, const Request& request, const Plan& plan) {
  const auto percent = [&](double seconds) { return 100 * seconds / plan.tpot; };
  fmt::format_to(to, "  busy       attention {:.0f} %, link {:.0f} %, experts {:.0f} %",
                 percent(plan.busy.attention), percent(plan.busy.link), percent(plan.busy.experts));
  if (plan.split.colocated || request.profile.take_turns) {
    fmt::format_to(to, " (of the same devices)");
  }
  fmt::format_to(to, "; head {:.1f} us\n", plan.head / kMicro);
}

void print_apart(Out to, const Plan& plan) {
  if (plan.tokens_per_s_arrival > 0) {
    fmt::format_to(to,
                   "  with all shards in step; started apart {} as workers order layers now, {} if "
                   "they took\n  the layer most wait for; {} if shards never met\n",
                   grouped(plan.tokens_per_s_arrival), grouped(plan.tokens_per_s_most_waiting),
                   grouped(plan.tokens_per_s_alone));
  } else {
    fmt::format_to(to, "  with all shards in step; {} if they never met in the expert pool\n",
                   grouped(plan.tokens_per_s_alone));
  }
}

void print_working(Out to, const char* label, const char* role, const WorkingMemory& working) {
  const auto gb = [](std::uint64_t bytes) { return static_cast<double>(bytes) / kGiga; };
  fmt::format_to(to, "  {:<10} {} {:.2f} GB: activations {:.2f}, scratch {:.2f}, ", label, role,
                 gb(working.device()), gb(working.activations), gb(working.scratch));
  if (working.graphs > 0) fmt::format_to(to, "graphs {:.2f}, ", gb(working.graphs));
  fmt::format_to(to, "process {:.2f}; pinned on the host {:.2f}\n", gb(working.process),
                 gb(working.pinned));
}

void print_held(Out to, const Plan& plan) {
  const MemoryFit& memory = plan.memory;
  fmt::format_to(to,
                 "  memory     attention device {:.1f} GB + {:.1f} GB of sequences, "
                 "expert device {:.1f} GB, of {:.1f} usable\n",
                 memory.attention / kGiga,
                 static_cast<double>(plan.sequences) / plan.split.attention *
                     static_cast<double>(memory.sequence.sum()) / kGiga,
                 memory.experts / kGiga, memory.usable / kGiga);
  if (memory.shard.device() == 0) return;
  print_working(to, "working", "memory of a shard", memory.shard);
  print_working(to, "", "memory of a worker", memory.worker);
}

void print_plan(Out to, const Request& request, const char* title, const Plan& plan) {
  fmt::format_to(to, "{:<12} ", title);
  if (plan.split.colocated) {
    fmt::format_to(to, "{} devices that are shard and worker", plan.split.attention);
  } else {
    fmt::format_to(to, "{} attention : {} expert devices", plan.split.attention,
                   plan.split.experts);
  }
  if (plan.split.devices() < request.devices) {
    fmt::format_to(to, " ({} idle)", request.devices - plan.split.devices());
  }
  fmt::format_to(to, ", {} micro-batch{}, {} sequences ({:.1f} a micro-batch of a shard)\n",
                 plan.micro_batches, plan.micro_batches == 1 ? "" : "es", plan.sequences,
                 plan.rows.decode);
  fmt::format_to(to, "  {} tokens/s, {} a device, {:.2f} ms a token", grouped(plan.tokens_per_s),
                 grouped(plan.tokens_per_s_device()), plan.tpot / kMilli);
  if (plan.tpot > request.tpot_ms * kMilli) {
    fmt::format_to(to, " (above {:g})\n", request.tpot_ms);
  } else {
    fmt::format_to(to, "; bound by {}\n",
                   request.sequences   ? "the sequences asked for"
                   : plan.memory_bound ? "memory for sequences"
                                       : "the time between tokens");
  }
  if (plan.split.attention > 1) print_apart(to, plan);
  print_held(to, plan);
  fmt::format_to(to, "  {:<10} {:>9} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}\n", "layer, us",
                 "attention", "= dense", "+ core", "+ other", "out", "experts", "back");
  print_layer(to, "lightning", plan.lightning_attention, plan.lightning);
  print_layer(to, "softmax", plan.softmax_attention, plan.softmax);
  print_busy(to, request, plan);
}

void print_alternatives(Out to, const Outcome& outcome, std::size_t count) {
  if (outcome.plans.size() < 2 || count == 0) return;
  fmt::format_to(to, "others       {:>9} {:>8} {:>10} {:>10} {:>9} {:>9}  bound by\n", "A:E",
                 "micro-b.", "sequences", "tokens/s", "a device", "ms");
  const std::size_t last = std::min(outcome.plans.size() - 1, count);
  for (std::size_t i = 1; i <= last; ++i) {
    const Plan& plan = outcome.plans[i];
    fmt::format_to(to, "             {:>9} {:>8} {:>10} {:>10} {:>9} {:>9.2f}  {}\n",
                   split_text(plan.split), plan.micro_batches, plan.sequences,
                   grouped(plan.tokens_per_s), grouped(plan.tokens_per_s_device()),
                   plan.tpot / kMilli, plan.memory_bound ? "memory" : "time");
  }
}

}  // namespace

std::string to_text(const Request& request, const Outcome& outcome, std::size_t alternatives) {
  std::string text;
  const auto to = std::back_inserter(text);
  print_question(to, request);
  print_memory(to, request);
  if (outcome.plans.empty()) {
    if (!outcome.why_not.empty()) fmt::format_to(to, "no plan      {}\n", outcome.why_not);
  } else {
    print_plan(to, request, "plan", outcome.plans.front());
  }
  print_alternatives(to, outcome, alternatives);
  if (outcome.colocated.empty()) {
    if (!outcome.why_not_colocated.empty()) {
      fmt::format_to(to, "colocated    not possible: {}\n", outcome.why_not_colocated);
    }
  } else {
    print_plan(to, request, "colocated", outcome.colocated.front());
  }
  fmt::format_to(to,
                 "A prediction from tables, not a measurement; sources: fulgur plan "
                 "--print-profile {}\n",
                 request.profile.name);
  return text;
}

}  // namespace fulgur::planner
