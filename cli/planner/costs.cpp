#include "cli/planner/costs.hpp"

#include <algorithm>

#include "cli/planner/expert_spread.hpp"
#include "cli/planner/memory_fit.hpp"

namespace fulgur::planner {
namespace {

constexpr double kMicro = 1e-6;
constexpr double kGiga = 1e9;
constexpr double kTera = 1e12;
constexpr double kBf16 = 2;
/// Places of an open block that decode reads on average, of 1 to 64.
constexpr double kOpenPlaces = 32.5;

// Row kernels, bytes a token moved in float32 and bf16, as docs/performance.md times them: two
// residual + norm of 14 a hidden element, combine of top-2 12, routing as slow as 18 (22 % of what
// its 4 bytes allow); norm and gate 6 an attention element.
constexpr double kHiddenBytes = 2 * 14 + 12 + 18;
constexpr double kGateBytes = 6;
constexpr double kRowKernels =
    5;  // of a layer: norm, gate or rope, residual + norm, route, combine
/// Logits: written and read once in float32.
constexpr double kLogitBytes = 8;

}  // namespace

Costs::Costs(const Request& request, const Split& split, double copies)
    : request_(request),
      config_(request.model.config),
      profile_(request.profile),
      split_(split),
      copies_(copies),
      expert_bytes_(static_cast<double>(expert_bytes(request))) {}

double Costs::dense(double params, double rows) const {
  const double bytes = params * kBf16;
  return profile_.launch_us * kMicro + bytes * seconds_per_byte(profile_.dense_gb_s, rows);
}

double Costs::streamed(double bytes) const { return bytes / (profile_.stream_gb_s * kGiga); }

double Costs::prefill_core(model::AttentionKind kind, const Rows& rows) const {
  if (rows.prefill <= 0) return 0;
  const double width = config_.attention_width();
  if (kind == model::AttentionKind::lightning) {
    return seconds_of(profile_.lightning_prefill_us, rows.prefill * 4 * width * kBf16);
  }
  // Each row multiplies by the keys and the values of half a prompt on average.
  const double operations = rows.prefill * 4 * width * request_.prompt / 2;
  return operations / (profile_.softmax_prefill_tflops * kTera);
}

AttentionTimes Costs::attention(model::AttentionKind kind, const Rows& rows) const {
  const double hidden = config_.hidden;
  const double width = config_.attention_width();
  const double square = width * hidden;
  AttentionTimes times;
  double row_bytes = kHiddenBytes * hidden;
  if (kind == model::AttentionKind::lightning) {
    times.dense =
        dense(3 * square, rows.sum()) + dense(square, rows.sum()) + dense(square, rows.sum());
    const double state = width * config_.head_dim * sizeof(float);
    const double open = kOpenPlaces * 2 * width * kBf16;
    times.core = seconds_of(profile_.lightning_us, rows.decode * (state + open));
    row_bytes += kGateBytes * width;
  } else {
    times.dense =
        dense(square + 2.0 * config_.kv_width() * hidden, rows.sum()) + dense(square, rows.sum());
    const double kv = request_.context * 2 * config_.kv_width() * kBf16;
    times.core = seconds_of(profile_.softmax_us, rows.decode * kv);
  }
  times.core += prefill_core(kind, rows);
  times.other = streamed(rows.sum() * row_bytes) +
                (kRowKernels * profile_.launch_us + profile_.message_us) * kMicro;
  return times;
}

double Costs::head(const Rows& rows) const {
  return dense(static_cast<double>(config_.embedding_params()), rows.decode) +
         streamed(rows.decode * config_.vocab * kLogitBytes) +
         (2 * profile_.launch_us + profile_.step_us) * kMicro;  // final norm, sampling
}

double Costs::experts(double tokens) const {
  const ExpertSpread spread =
      spread_experts(config_.experts, config_.experts_per_token, tokens, split_.experts, copies_);
  const double weights = spread.touched * expert_bytes_;
  return profile_.expert_floor_us * kMicro +
         weights * seconds_per_byte(profile_.expert_gb_s, spread.rows);
}

/// Of the busier side: a shard's bytes, or what a worker has to do with all shards.
double Costs::occupied(double bytes) const {
  const Link& link =
      split_.devices() <= profile_.devices_per_host ? profile_.host : profile_.network;
  const double workers_load = static_cast<double>(split_.attention) / split_.experts;
  return seconds_of(link.us_by_bytes, bytes * std::max(1.0, workers_load));
}

StageTimes Costs::layer(model::AttentionKind kind, const Rows& rows, bool joined) const {
  StageTimes stage;
  stage.attention = attention(kind, rows).sum();
  const double tokens = rows.sum() * split_.attention;
  stage.experts = joined ? experts(tokens) : experts(rows.sum()) * split_.attention;
  const double remote = split_.colocated ? 1 - 1.0 / split_.attention : 1;
  if (remote <= 0) return stage;
  const double row = config_.hidden * kBf16;
  const double copies_out = std::min(config_.experts_per_token, split_.experts);
  stage.out = occupied(remote * rows.sum() * row * copies_out);
  stage.back = occupied(remote * rows.sum() * row * config_.experts_per_token);
  const Link& link =
      split_.devices() <= profile_.devices_per_host ? profile_.host : profile_.network;
  stage.out_latency = stage.back_latency = link.latency_us * kMicro;
  return stage;
}

Pipeline Costs::pipeline(const Rows& rows, std::uint32_t micro_batches, bool joined) const {
  const StageTimes lightning = layer(model::AttentionKind::lightning, rows, joined);
  const StageTimes softmax = layer(model::AttentionKind::softmax, rows, joined);
  Pipeline pipeline;
  for (const model::AttentionKind kind : config_.attention) {
    pipeline.layers.push_back(kind == model::AttentionKind::lightning ? lightning : softmax);
  }
  pipeline.head = head(rows);
  pipeline.micro_batches = micro_batches;
  pipeline.one_resource = split_.colocated || profile_.take_turns;
  return pipeline;
}

}  // namespace fulgur::planner
