// Seconds of each stage of a layer, from a model's shape and a profile's curves. The formulae are
// in docs/capacity.md.
#pragma once

#include "cli/planner/pipeline.hpp"
#include "cli/planner/request.hpp"

namespace fulgur::planner {

/// What one shard's micro-batch is made of.
struct Rows {
  double decode = 1;   ///< sequences that get a token
  double prefill = 0;  ///< prompt tokens beside them
  double sum() const { return decode + prefill; }
};

/// Attention part of a layer, seconds.
struct AttentionTimes {
  double dense = 0;  ///< projections
  double core = 0;   ///< state or KV, decode and prefill
  double other = 0;  ///< norms, gates, routing, combine: bytes, launches, messages
  double sum() const { return dense + core + other; }
};

class Costs {
 public:
  /// `copies` as MemoryFit has it. Keeps references: for the duration of one plan.
  Costs(const Request& request, const Split& split, double copies);

  AttentionTimes attention(model::AttentionKind kind, const Rows& rows) const;
  /// LM head and sampling of a micro-batch.
  double head(const Rows& rows) const;
  /// One layer's experts for `tokens` tokens that arrive together, seconds of the busiest worker.
  double experts(double tokens) const;
  /// All stages of a layer. `joined`: every shard's micro-batch meets the others' in the pool and
  /// runs with them; else each is run alone, one after another.
  StageTimes layer(model::AttentionKind kind, const Rows& rows, bool joined) const;

  Pipeline pipeline(const Rows& rows, std::uint32_t micro_batches, bool joined) const;

 private:
  double dense(double params, double rows) const;
  double streamed(double bytes) const;
  double prefill_core(model::AttentionKind kind, const Rows& rows) const;
  double occupied(double bytes) const;

  const Request& request_;
  const model::ModelConfig& config_;
  const Profile& profile_;
  Split split_;
  double copies_;
  double expert_bytes_;
};

}  // namespace fulgur::planner
