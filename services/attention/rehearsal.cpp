#include "services/attention/rehearsal.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace fulgur::attention {
namespace {

/// Makes micro-batches at the limits. Their sequences share pages, which no real ones do: for
/// memory only lengths count.
class LargestBatches {
 public:
  explicit LargestBatches(const SchedulerOptions& limits)
      : rows_(limits.batch_tokens),
        sequences_(std::min(limits.slots, limits.batch_tokens)),
        longest_(
            std::min(limits.positions_max, std::uint64_t{limits.pages} * kernels::kPageTokens)),
        pages_((longest_ + kernels::kPageTokens - 1) / kernels::kPageTokens) {
    std::iota(pages_.begin(), pages_.end(), 0U);
  }

  /// As many sequences as there can be, one token each, one of them the longest there can be.
  void decodes(MicroBatch& batch) const {
    clear(batch);
    for (std::uint32_t at = 0; at < sequences_; ++at) add(batch, 1, at == 0);
  }

  /// As many rows as there can be: one sequence decodes at the greatest length, the others have the
  /// rest of the rows, the first of them as many as one can. They are at their start: how far a
  /// prompt reaches back takes time, and of memory only the list of pages, which the one has.
  void mixed(MicroBatch& batch) const {
    clear(batch);
    std::uint64_t left = rows_ - sequences_;
    std::vector<std::uint32_t> rows(sequences_, 1);
    for (std::uint32_t turn = 1; turn <= sequences_; ++turn) {
      const std::uint64_t more = std::min(left, longest_ - 1);
      rows[turn % sequences_] += static_cast<std::uint32_t>(more);
      left -= more;
    }
    for (const std::uint32_t each : rows) add(batch, each, batch.slices.empty());
  }

  /// One token at the start: for what a layer keeps.
  void smallest(MicroBatch& batch) const {
    clear(batch);
    add(batch, 1, false);
  }

 private:
  static void clear(MicroBatch& batch) {
    batch.slices.clear();
    batch.tokens.clear();
  }

  void add(MicroBatch& batch, std::uint32_t rows, bool at_the_end) const {
    const auto slot = static_cast<std::uint32_t>(batch.slices.size());
    batch.slices.push_back(
        {0, slot, batch.rows(), rows, at_the_end ? longest_ - rows : 0, &pages_, 0});
    batch.tokens.resize(batch.tokens.size() + rows);
  }

  const std::uint32_t rows_;
  const std::uint32_t sequences_;
  const std::uint64_t longest_;
  std::vector<std::uint32_t> pages_;
};

/// Dispatch and combination of the batch, its rows and the experts' in host memory: what is staged
/// between the memories comes on top of everything else.
void exchange(Shard& shard, AttentionLayer& layer, MicroBatch& batch) {
  const Dtype dtype = shard.options.dispatch.dtype;
  const std::size_t row_bytes = shard.config.hidden * size_of(dtype);
  std::vector<std::uint32_t> rows(batch.rows());
  std::iota(rows.begin(), rows.end(), 0U);
  std::vector<std::byte> host(rows.size() * row_bytes);
  shard.backend->gather(batch.y.data(), rows, shard.config.hidden, dtype, host.data());
  const auto block = shard.pool->take_if_any(host.size());
  if (block) {
    shard.backend->gather(batch.y.data(), rows, shard.config.hidden, dtype, block.get());
  }
  batch.outputs.assign(rows.size() * shard.config.experts_per_token, host.data());
  layer.combine(batch, dtype);
  shard.backend->finish();
  batch.outputs.clear();
}

}  // namespace

void rehearse(Shard& shard) {
  if (shard.backend->host_memory()) return;
  const LargestBatches largest(shard.options.scheduler);
  const auto layers = [&](MicroBatch& batch) {
    bool lightning_seen = false;
    bool softmax_seen = false;
    for (std::uint32_t index = 0; index < shard.config.layers; ++index) {
      AttentionLayer& layer = *shard.attention[index];
      const bool lightning = shard.weights.layers[index].kind == model::AttentionKind::lightning;
      if (std::exchange(lightning ? lightning_seen : softmax_seen, true)) {
        largest.smallest(batch);
        layer.attend(batch);
        continue;
      }
      largest.decodes(batch);
      layer.attend(batch);
      largest.mixed(batch);
      layer.attend(batch);
      exchange(shard, layer, batch);
    }
  };
  shard.backend->rehearse(
      [&] { shard.engine->rehearse(shard.options.scheduler.batch_tokens, layers); });
}

}  // namespace fulgur::attention
