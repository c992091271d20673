#include "cli/planner/working_memory.hpp"

#include <algorithm>
#include <bit>
#include <initializer_list>

namespace fulgur::planner {
namespace {

// The command line may not include kernels/ or services/: what follows mirrors them, and
// working_memory_test compares what headers show.
constexpr std::uint64_t kMib = 1 << 20;
constexpr std::uint64_t kBf16 = 2;
constexpr std::uint64_t kF32 = 4;
constexpr std::uint64_t kPointer = 8;
constexpr std::uint64_t kPageTokens = 64;
constexpr std::uint64_t kSoftmaxSplit = 512;
constexpr std::uint64_t kSoftmaxDecodeRows = 1024;
constexpr std::uint64_t kSoftmaxTileRows = 16;
constexpr std::uint64_t kGroupHeads = 8;                                 // query heads of a KV head
constexpr std::uint64_t kPartialBytes = kGroupHeads * (128 + 2) * kF32;  // of a split, a KV head
constexpr std::uint64_t kPartialsMax = 512 * kMib;
constexpr std::uint64_t kDecayPowers = kPageTokens + 1;  // a head
constexpr std::uint64_t kLogitsRows = 256;               // the engine's kDeviceLogitsChunk
constexpr std::uint64_t kEditsRehearsed = 1024;          // of a row of logits
constexpr std::uint64_t kRanks = 256;
constexpr std::uint64_t kDrawColumns = 4096;
constexpr std::uint64_t kSegmentBytes = 24;      // LightningRows
constexpr std::uint64_t kTileBytes = 16;         // SoftmaxTile
constexpr std::uint64_t kDrawRowBytes = 16;      // portable::DrawRow
constexpr std::uint64_t kDrawPartBytes = 32;     // portable::DrawPart
constexpr std::uint64_t kEditBytes = 20;         // portable::RowEdit
constexpr std::uint64_t kDrawnBytes = 8;         // Drawn, RankedToken
constexpr std::uint64_t kSlabBytes = 32 * kMib;  // of weights that are packed
constexpr std::uint64_t kSlabRows = 128;
constexpr std::uint64_t kDeviceAlignment = 512;
/// Memory comes from the driver in chunks of 64 MiB and more: the end of one that holds small
/// pieces and the end of one that nothing else fits into.
constexpr std::uint64_t kChunkEnds = 2 * 64 * kMib;
/// 12 graphs of 8 kernels took 2 MiB at most (docs/performance.md); 512 are kept.
constexpr std::uint64_t kGraphBytes = (2 * kMib + 11) / 12;
constexpr std::uint64_t kGraphsMax = 512;

std::uint64_t aligned(std::uint64_t bytes, std::uint64_t to) { return (bytes + to - 1) / to * to; }

/// kernels::cuda::Workspace with nothing in it, and the largest list that went through its pinned
/// memory.
class Scratch {
 public:
  /// One call's arrays in the order in which they are taken.
  void call(std::initializer_list<std::uint64_t> arrays) {
    last_ = blocks_;  // what the last call took in pieces is one piece now
    used_ = call_ = 0;
    for (const std::uint64_t array : arrays) take(array);
  }
  /// A list or rows of the host that a call brings to the device: also as an array of call().
  std::uint64_t pinned(std::uint64_t bytes) {
    pinned_ = std::max(pinned_, aligned(bytes, kAlignment));
    return bytes;
  }
  /// After the last call.
  std::uint64_t grown() const { return blocks_; }
  /// When a rehearsal ends: an eighth more than the largest call, or what growing has left.
  std::uint64_t settled() const { return std::max(blocks_, largest_ + largest_ / 8); }
  std::uint64_t pinned_bytes() const { return pinned_; }

 private:
  static constexpr std::uint64_t kAlignment = 256;
  static constexpr std::uint64_t kFirst = 8 * kMib;

  void take(std::uint64_t array) {
    const std::uint64_t bytes = aligned(std::max<std::uint64_t>(array, 1), kAlignment);
    if (used_ + bytes > last_) {
      last_ = std::max(bytes, kFirst);
      blocks_ += last_;
      used_ = 0;
    }
    used_ += bytes;
    call_ += bytes;
    largest_ = std::max(largest_, call_);
  }

  std::uint64_t blocks_ = kFirst;  ///< bytes of all
  std::uint64_t last_ = kFirst;    ///< of the one that arrays come from
  std::uint64_t used_ = 0;         ///< of that
  std::uint64_t call_ = 0;
  std::uint64_t largest_ = 0;
  std::uint64_t pinned_ = 4 * kMib;
};

/// kernels::cuda::Lists: each begins at a multiple of 16.
std::uint64_t lists(std::initializer_list<std::uint64_t> each) {
  std::uint64_t end = 0;
  for (const std::uint64_t bytes : each) end = aligned(end, 16) + bytes;
  return end;
}

/// kernels::cuda::tiled_capacity().
std::uint64_t tiled_capacity(std::uint64_t rows, std::uint64_t groups) {
  return (rows + 7 * groups + 7) / 8 * 8 + 256;
}
std::uint64_t tiled(std::uint64_t rows, std::uint64_t cols) {
  return tiled_capacity(rows, 1) * cols * kBf16;
}

/// kernels::cuda::length_bucket(), in splits.
std::uint64_t splits_of_bucket(std::uint64_t length) {
  const std::uint64_t splits = (length + kSoftmaxSplit - 1) / kSoftmaxSplit;
  const std::uint64_t step = std::max<std::uint64_t>(1, std::bit_floor(splits - 1) / 4);
  return (splits + step - 1) / step * step;
}

/// A slab of a bf16 matrix on its way to be packed.
std::uint64_t slab(std::uint64_t rows, std::uint64_t cols) {
  const std::uint64_t row = cols * kBf16;
  return std::min(rows, std::max(kSlabRows, kSlabBytes / row / kSlabRows * kSlabRows)) * row;
}

/// kernels::Buffer that was asked for `first` elements, then for `second`.
std::uint64_t grown(std::uint64_t first, std::uint64_t second) {
  return second <= first ? first : std::max(second, first + first / 4);
}

/// A micro-batch of the rehearsal.
struct Batch {
  std::uint64_t rows = 0;
  std::uint64_t segments = 0;
  std::uint64_t singles = 0;         ///< segments of one row
  std::uint64_t tiles = 0;           ///< of longer ones
  std::uint64_t single_longest = 0;  ///< positions that a single row sees at most
};

/// The shard's rehearsal, one after the other as rehearsal.cpp has it.
class ShardRehearsal {
 public:
  ShardRehearsal(const model::ModelConfig& config, const ShardLimits& limits)
      : config_(config),
        rows_(limits.batch_tokens),
        lanes_(limits.micro_batches),
        sequences_(std::min(limits.sequences, limits.batch_tokens)),
        longest_(std::min(config.max_positions,
                          std::max(kPageTokens, limits.kv_tokens / kPageTokens * kPageTokens))),
        width_(config.attention_width()) {}

  WorkingMemory bytes() {
    load();
    for (std::uint32_t lane = 0; lane < lanes_; ++lane) {
      scratch_.call({scratch_.pinned(rows_ * kF32)});  // token ids
    }
    bool seen[2] = {};
    for (const model::AttentionKind kind : config_.attention) {
      bool& known = seen[static_cast<std::size_t>(kind)];
      if (known) continue;
      known = true;
      attend(kind, decodes());
      attend(kind, mixed());
      exchange(mixed());
    }
    logits();
    WorkingMemory memory;
    memory.activations = kept();
    memory.scratch = aligned(scratch_.settled(), kDeviceAlignment);
    memory.graphs = kGraphsMax * kGraphBytes;
    memory.process = kChunkEnds;
    memory.pinned = scratch_.pinned_bytes() + ranked_ + config_.vocab * kF32;
    return memory;
  }

 private:
  /// The two widest matrices: the head's rows, the output's columns.
  void load() {
    scratch_.call({slab(config_.vocab, config_.hidden)});
    scratch_.call({slab(config_.hidden, width_)});
  }

  Batch decodes() const { return {sequences_, sequences_, sequences_, 0, longest_}; }

  /// LargestBatches::mixed(): the second sequence has as many rows as it can, then the next; the
  /// first, which decodes at the greatest length, is the last to get more.
  Batch mixed() const {
    const std::uint64_t more = rows_ - sequences_;
    const std::uint64_t whole = std::min(sequences_, more / (longest_ - 1));
    const std::uint64_t rest = whole < sequences_ ? more % (longest_ - 1) : 0;
    const std::uint64_t longer = whole + (rest > 0 ? 1 : 0);
    const auto tiles = [](std::uint64_t rows) {
      return (rows + kSoftmaxTileRows - 1) / kSoftmaxTileRows;
    };
    Batch batch;
    batch.rows = sequences_ + whole * (longest_ - 1) + rest;
    batch.segments = sequences_;
    batch.singles = sequences_ - longer;
    batch.tiles = whole * tiles(longest_) + (rest > 0 ? tiles(1 + rest) : 0);
    batch.single_longest = longest_;  // the first's, where there are singles
    return batch;
  }

  void attend(model::AttentionKind kind, const Batch& batch) {
    kind == model::AttentionKind::lightning ? lightning(batch) : softmax(batch);
    scratch_.call({batch.rows * config_.experts_per_token * (kF32 + 2)});  // routes
  }

  void lightning(const Batch& batch) {
    const std::uint64_t longer = batch.segments - batch.singles;
    scratch_.call({scratch_.pinned(lists({longer * kSegmentBytes, batch.singles * kSegmentBytes})),
                   batch.rows * 3 * width_ * kBf16, batch.rows * width_ * kBf16,
                   batch.rows * width_ * kBf16, tiled(batch.rows, config_.hidden),
                   tiled(batch.rows, width_)});
  }

  void softmax(const Batch& batch) {
    const std::uint64_t table =
        batch.segments * splits_of_bucket(longest_) * (kSoftmaxSplit / kPageTokens) * kF32;
    const std::uint64_t sent =
        scratch_.pinned(lists({batch.rows * kF32, batch.rows * kF32, table, batch.singles * kF32,
                               batch.singles * kF32, batch.tiles * kTileBytes}));
    const std::uint64_t query = batch.rows * width_ * kBf16;
    const std::uint64_t qkv = batch.rows * (width_ + 2 * config_.kv_width()) * kBf16;
    const std::uint64_t input = tiled(batch.rows, config_.hidden);
    const std::uint64_t attended = tiled(batch.rows, width_);
    if (batch.singles == 0) {
      scratch_.call({query, sent, qkv, query, input, attended});
    } else {
      scratch_.call({query, sent, partials(batch), qkv, query, input, attended});
    }
  }

  /// Partial results of rows that decode: the whole budget where it binds.
  std::uint64_t partials(const Batch& batch) const {
    const std::uint64_t row =
        splits_of_bucket(batch.single_longest) * (config_.heads / kGroupHeads) * kPartialBytes;
    return std::min(std::min(batch.singles, kSoftmaxDecodeRows) * row, std::max(row, kPartialsMax));
  }

  /// Rows that leave for the host, and outputs that come from there.
  void exchange(const Batch& batch) {
    const std::uint64_t row = config_.hidden * kBf16;
    const std::uint64_t routes = batch.rows * config_.experts_per_token;
    scratch_.call({batch.rows * row, scratch_.pinned(batch.rows * kF32)});
    scratch_.call({scratch_.pinned(routes * row),
                   scratch_.pinned(lists({routes * kF32, routes * kPointer}))});
  }

  /// Head, then a draw and a rank with all that can be asked for, of every row.
  void logits() {
    const std::uint64_t rows = std::min(rows_, kLogitsRows);
    const std::uint64_t vocab = config_.vocab;
    const std::uint64_t mask = (vocab + 31) / 32 * 4;
    const std::uint64_t edits = rows * std::min(kEditsRehearsed, vocab);
    const std::uint64_t each = (vocab + kDrawColumns - 1) / kDrawColumns;
    const std::uint64_t parts = rows * each * kDrawPartBytes;
    scratch_.call({tiled(rows, config_.hidden)});
    scratch_.call(
        {scratch_.pinned(lists({rows * kDrawRowBytes, mask})), parts, rows * kDrawnBytes});
    ranked_ = rows * kRanks * kDrawnBytes + rows * kTotalsBytes + aligned(edits * kF32, 8);
    scratch_.call({scratch_.pinned(lists({rows * 4, edits * kEditBytes, rows * kDrawRowBytes,
                                          rows * kDrawRowBytes, rows * 4, mask})),
                   ranked_, parts, parts, rows * kDrawnBytes, rows * each * kRanks * 8});
  }

  std::uint64_t kept() const {
    const auto floats = [](std::uint64_t count) { return aligned(count * kF32, kDeviceAlignment); };
    const std::uint64_t hidden = config_.hidden;
    const std::uint64_t logits_rows = std::min(rows_, kLogitsRows);
    // Output of a block, its input beside it where that is the residual.
    const std::uint64_t block = floats(grown(sequences_ * hidden, mixed().rows * hidden));
    return lanes_ * 2 * floats(rows_ * hidden) + block * (config_.postnorm ? 2 : 1) +
           floats(logits_rows * hidden) + floats(logits_rows * config_.vocab) +
           config_.layers_of(model::AttentionKind::lightning) *
               floats(config_.heads * kDecayPowers) +
           floats(config_.rotary_dim / 2);
  }

  static constexpr std::uint64_t kTotalsBytes = 32;  // RankTotals

  const model::ModelConfig& config_;
  const std::uint64_t rows_;
  const std::uint32_t lanes_;
  const std::uint64_t sequences_;
  const std::uint64_t longest_;
  const std::uint64_t width_;
  Scratch scratch_;
  std::uint64_t ranked_ = 0;
};

}  // namespace

WorkingMemory shard_working_memory(const model::ModelConfig& config, const ShardLimits& limits) {
  return ShardRehearsal(config, limits).bytes();
}

WorkingMemory worker_working_memory(const model::ModelConfig& config, const WorkerLimits& limits) {
  const std::uint64_t rows = limits.batch_rows;
  const std::uint64_t row = config.hidden * kBf16;
  const std::uint64_t capacity = tiled_capacity(rows, config.experts);
  const std::uint64_t groups = rows < config.experts ? 1 : config.experts;  // that have rows
  const auto operand = [&](std::uint64_t cols) {
    return limits.fp8 ? capacity * cols + capacity * (cols / 128) * kF32 : capacity * cols * kBf16;
  };
  const std::uint64_t gate = slab(config.expert_inner, config.hidden);
  const std::uint64_t down = slab(config.hidden, config.expert_inner);
  Scratch loading;  // of the backend that packs replicas beside the one that runs them
  Scratch running;  // which has packed the expert of the rehearsal
  for (Scratch* const packing : {&loading, &running}) {
    packing->call({gate});
    packing->call({down});
  }
  const std::uint64_t ids = running.pinned(lists(
      {groups * 4, groups * 4, capacity * 4, capacity * 4, groups * kPointer, groups * kPointer}));
  const std::uint64_t places = running.pinned(lists({rows * kPointer, rows * kPointer}));
  running.call({running.pinned(rows * row), places});
  running.call({ids, operand(config.hidden), operand(config.expert_inner)});
  running.call({rows * row, ids, operand(config.hidden), operand(config.expert_inner), rows * row});
  running.call({rows * row, places});
  WorkingMemory memory;
  memory.activations = 2 * aligned(rows * row, kDeviceAlignment);
  memory.scratch =
      aligned(running.settled(), kDeviceAlignment) + aligned(loading.grown(), kDeviceAlignment);
  memory.process = kChunkEnds;
  memory.pinned = running.pinned_bytes();
  return memory;
}

}  // namespace fulgur::planner
