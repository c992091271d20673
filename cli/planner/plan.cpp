#include "cli/planner/plan.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "cli/planner/pool_order.hpp"

namespace fulgur::planner {
namespace {

using model::AttentionKind;

constexpr double kMilli = 1e-3;

Rows rows_of(const Request& request, const Split& split, std::uint32_t micro_batches,
             std::uint64_t sequences) {
  Rows rows;
  rows.decode = std::max(1.0, static_cast<double>(sequences) / split.attention / micro_batches);
  rows.prefill = rows.decode * request.prefill_ratio();
  return rows;
}

/// What fits for 1, 2, … micro-batches in flight; none where they are not asked for or nothing
/// does.
using Fits = std::array<std::optional<MemoryFit>, kMicroBatchesMax>;

/// The tries of one split, for which something fits.
class Search {
 public:
  Search(const Request& request, const Split& split, const Fits& fits)
      : request_(request), split_(split), fits_(fits), costs_(request, split, copies(fits)) {}

  double seconds(std::uint32_t micro_batches, std::uint64_t sequences) const {
    const Rows rows = rows_of(request_, split_, micro_batches, sequences);
    return step_seconds(costs_.pipeline(rows, micro_batches, true));
  }

  /// Most sequences within memory and the time between tokens; 0: not even the fewest.
  std::uint64_t most_sequences(std::uint32_t micro_batches) const {
    const std::uint64_t fewest = std::uint64_t{split_.attention} * micro_batches;
    const std::uint64_t room = sequences_max(micro_batches);
    const double limit = request_.tpot_ms * kMilli;
    // How fast it is, is the question.
    if (request_.sequences) return *request_.sequences <= room ? *request_.sequences : 0;
    if (fewest > room || seconds(micro_batches, fewest) > limit) return 0;
    std::uint64_t fits = fewest;
    std::uint64_t beyond = room + 1;
    while (beyond - fits > 1) {
      const std::uint64_t middle = fits + (beyond - fits) / 2;
      (seconds(micro_batches, middle) <= limit ? fits : beyond) = middle;
    }
    return fits;
  }

  /// The best number of micro-batches, or none within the time between tokens.
  std::optional<Plan> best() const {
    std::uint32_t chosen = 0;
    std::uint64_t chosen_sequences = 0;
    double chosen_rate = 0;
    for (std::uint32_t count = 1; count <= kMicroBatchesMax; ++count) {
      if (!fits_[count - 1]) continue;
      const std::uint64_t sequences = most_sequences(count);
      if (sequences == 0) continue;
      const double rate = static_cast<double>(sequences) / seconds(count, sequences);
      if (rate <= chosen_rate) continue;
      chosen = count;
      chosen_sequences = sequences;
      chosen_rate = rate;
    }
    if (chosen == 0) return std::nullopt;
    return evaluate(request_, split_, *fits_[chosen - 1], chosen, chosen_sequences);
  }

  /// Most sequences of any number of micro-batches.
  std::uint64_t room() const {
    std::uint64_t most = 0;
    for (std::uint32_t count = 1; count <= kMicroBatchesMax; ++count) {
      most = std::max(most, sequences_max(count));
    }
    return most;
  }

  std::string too_slow() const {
    std::uint32_t count = 1;
    while (!fits_[count - 1]) ++count;
    const std::uint64_t fewest = std::uint64_t{split_.attention} * count;
    if (fewest > sequences_max(count)) {
      return fmt::format("{} micro-batches need {} sequences; there is room for {}", count, fewest,
                         sequences_max(count));
    }
    return fmt::format("even {} sequences take {:.1f} ms a token, above {:g}", fewest,
                       seconds(count, fewest) / kMilli, request_.tpot_ms);
  }

 private:
  std::uint64_t sequences_max(std::uint32_t micro_batches) const {
    const auto& fit = fits_[micro_batches - 1];
    return fit ? fit->sequences_max : 0;
  }
  /// Weights are the same however many micro-batches there are.
  static double copies(const Fits& fits) {
    return (*std::find_if(fits.begin(), fits.end(),
                          [](const auto& fit) { return fit.has_value(); }))
        ->copies;
  }

  const Request& request_;
  Split split_;
  const Fits& fits_;
  Costs costs_;
};

/// Adds the split's best plan; else returns why there is none.
std::string try_split(const Request& request, const Split& split, std::vector<Plan>& plans) {
  Fits fits;
  std::string why;
  bool any = false;
  for (std::uint32_t count = 1; count <= kMicroBatchesMax; ++count) {
    if (request.micro_batches.value_or(count) != count) continue;
    auto memory = fit_memory(request, split, count);
    if (memory.is_ok()) {
      fits[count - 1] = std::move(*memory);
      any = true;
    } else if (why.empty()) {
      why = memory.status().message();
    }
  }
  if (!any) return why;
  const Search search(request, split, fits);
  if (request.sequences.value_or(1) > search.room()) {
    return fmt::format("memory has room for {} sequences", search.room());
  }
  if (auto plan = search.best()) {
    plans.push_back(std::move(*plan));
    return {};
  }
  return search.too_slow();
}

/// The splits to try, those with the most expert devices first: why that one is not possible tells
/// more than why any other is not. With more devices than a host has, one host alone is tried too:
/// its link may be worth more than the other devices.
std::vector<Split> splits_of(const Request& request) {
  if (request.split && request.split->colocated) return {};
  if (request.split) return {*request.split};
  std::vector<Split> splits;
  for (const std::uint32_t devices : {request.devices, request.profile.devices_per_host}) {
    if (devices > request.devices || (!splits.empty() && devices == request.devices)) continue;
    for (std::uint32_t attention = 1; attention < devices; ++attention) {
      splits.push_back({attention, devices - attention, false});
    }
  }
  return splits;
}

/// What becomes of `plan` when its shards start at different layers.
void play_orders(const Request& request, Plan& plan) {
  if (plan.split.attention < 2 || request.profile.take_turns) return;
  const Costs costs(request, plan.split, plan.memory.copies);
  PoolRun run;
  run.shard = costs.pipeline(plan.rows, plan.micro_batches, true);
  run.shards = plan.split.attention;
  std::vector<double> seconds{0};
  for (std::uint32_t joined = 1; joined <= run.shards * plan.micro_batches; ++joined) {
    seconds.push_back(costs.experts(plan.rows.sum() * joined));
  }
  run.experts = [&](std::uint32_t joined) { return seconds[joined]; };
  const auto sequences = static_cast<double>(plan.sequences);
  plan.tokens_per_s_arrival = sequences / apart_step_seconds(run);
  run.order = PoolOrder::most_waiting;
  plan.tokens_per_s_most_waiting = sequences / apart_step_seconds(run);
}

bool better(const Plan& a, const Plan& b) {
  if (a.tokens_per_s != b.tokens_per_s) return a.tokens_per_s > b.tokens_per_s;
  return a.split.attention < b.split.attention;
}

}  // namespace

Status check(const Request& request) {
  const auto& config = request.model.config;
  const auto bad = [](std::string message) {
    return Status(Code::invalid_argument, std::move(message));
  };
  if (request.devices == 0) return bad("--gpus must be at least 1");
  if (!(request.context >= 1)) return bad("--context must be at least 1");
  if (request.context > static_cast<double>(config.max_positions)) {
    return error(Code::invalid_argument, "--context {:.0f}: {} has {} positions", request.context,
                 request.model.name, config.max_positions);
  }
  if (!(request.tpot_ms > 0)) return bad("--tpot must be above 0");
  if (!(request.prompt >= 0) || !(request.output >= 1)) {
    return bad("--prompt must not be negative and --output at least 1");
  }
  if (request.prompt > request.context) return bad("--prompt must not exceed --context");
  if (!(request.spare >= 0)) return bad("--spare must not be negative");
  if (!(request.headroom >= 0 && request.headroom < 1)) return bad("--headroom must be in [0, 1)");
  if (request.split && request.split->devices() > request.devices) {
    return error(Code::invalid_argument, "--split needs {} devices and --gpus gives {}",
                 request.split->devices(), request.devices);
  }
  return Status::ok();
}

Plan evaluate(const Request& request, const Split& split, const MemoryFit& memory,
              std::uint32_t micro_batches, std::uint64_t sequences) {
  const Costs costs(request, split, memory.copies);
  Plan plan;
  plan.split = split;
  plan.micro_batches = micro_batches;
  plan.sequences = sequences;
  plan.memory = memory;
  // Flags are set for the sequences that run, not for the most there could be.
  plan.memory.shard =
      shard_working(request, (sequences + split.attention - 1) / split.attention, micro_batches);
  plan.rows = rows_of(request, split, micro_batches, sequences);
  plan.lightning_attention = costs.attention(AttentionKind::lightning, plan.rows);
  plan.softmax_attention = costs.attention(AttentionKind::softmax, plan.rows);
  plan.lightning = costs.layer(AttentionKind::lightning, plan.rows, true);
  plan.softmax = costs.layer(AttentionKind::softmax, plan.rows, true);
  const Pipeline joined = costs.pipeline(plan.rows, micro_batches, true);
  plan.head = joined.head;
  plan.tpot = step_seconds(joined);
  plan.busy = busy_seconds(joined);
  plan.tokens_per_s = static_cast<double>(sequences) / plan.tpot;
  const Pipeline alone = costs.pipeline(plan.rows, micro_batches, false);
  plan.tokens_per_s_alone = static_cast<double>(sequences) / step_seconds(alone);
  plan.memory_bound = sequences == memory.sequences_max;
  return plan;
}

Outcome make_plans(const Request& request) {
  Outcome outcome;
  for (const Split& split : splits_of(request)) {
    const std::string why = try_split(request, split, outcome.plans);
    if (outcome.why_not.empty()) outcome.why_not = why;
  }
  if (!outcome.plans.empty()) outcome.why_not.clear();
  if (request.devices == 1 && !request.split) {
    outcome.why_not = "one device cannot be divided into two pools";
  }
  std::stable_sort(outcome.plans.begin(), outcome.plans.end(), better);
  if (!outcome.plans.empty()) play_orders(request, outcome.plans.front());
  if (!request.split || request.split->colocated) {
    const Split all{request.devices, request.devices, true};
    outcome.why_not_colocated = try_split(request, request.split.value_or(all), outcome.colocated);
  }
  return outcome;
}

}  // namespace fulgur::planner
