// Working memory against values that were computed by hand from the arrays of each call. No
// document has a measured figure to compare with: a shard and a worker take it or end.
#include "cli/planner/working_memory.hpp"

#include <gtest/gtest.h>

#include "cli/planner/model_shape.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/sizes.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::planner {
namespace {

constexpr std::uint64_t kMib = 1 << 20;
constexpr std::uint64_t kChunkEnds = 128 * kMib;

model::ModelConfig config_of(const char* name) { return find_shape(name).value().config; }

TEST(WorkingMemory, MirroredSizesAreTheKernels) {
  EXPECT_EQ(kernels::kPageTokens, 64U);
  EXPECT_EQ(kernels::kSoftmaxSplit, 512U);
  EXPECT_EQ(kernels::kLightningBlock + 1, 65U);
  EXPECT_EQ(kernels::kGraphsMax, 512U);
  EXPECT_EQ(kernels::kRanks, 256U);
  EXPECT_EQ(kernels::kDrawColumns, 4096U);
  EXPECT_EQ(sizeof(kernels::RankTotals), 32U);
  EXPECT_EQ(sizeof(kernels::RankedToken), 8U);
  EXPECT_EQ(sizeof(kernels::Drawn), 8U);
  EXPECT_EQ(sizeof(kernels::LogitEdit) + sizeof(std::uint32_t), 20U);
  EXPECT_EQ(kernels::cuda::kHeadDim, 128);
  EXPECT_EQ(kernels::cuda::tiled8_bytes(8672, 6144), 8672U * 6144 + 8672U * 48 * 4);
  // Lengths of tables and partial results: 608 splits go up in steps of 512 / 4, 512 in steps of 64.
  EXPECT_EQ(kernels::cuda::length_bucket(608 * 512), 640 * 512);
  EXPECT_EQ(kernels::cuda::length_bucket(512 * 512), 512 * 512);
}

/// M1, 32 sequences of 8,192 tokens, 2 micro-batches of 512: what a shard of a plan is set to.
TEST(WorkingMemory, AShardOfM1ByHand) {
  ShardLimits limits;
  limits.sequences = 32;
  limits.kv_tokens = 32 * 8192;
  limits.micro_batches = 2;
  const model::ModelConfig m1 = config_of("M1");
  ASSERT_TRUE(m1.postnorm);  // a block's input is kept beside its output
  const WorkingMemory memory = shard_working_memory(m1, limits);
  // Rows of 6,144 floats: h and y of two lanes, input and output of a block, 512 each; head input
  // 256.
  // Logits of 256 rows; 70 tables of 64 x 65 floats (16,640 bytes, 16,896 in pieces of 512);
  // 32 rotary frequencies in a piece of 512.
  const std::uint64_t row = 6144 * 4;
  EXPECT_EQ(memory.activations,
            (2 * 2 * 512 + 2 * 512 + 256) * row + 256ULL * 200'064 * 4 + 70 * 16'896 + 512);
  EXPECT_EQ(memory.activations, 287'837'696U);
  // The largest call is softmax's with 512 rows in 32 segments, of which one has 481: 31 of one
  // row. A row has 512 splits (262,144 positions) of 8 KV heads x 4,160 bytes, so 17,039,360 bytes:
  // 31 rows would be 528,220,160, less than 512 MiB. Beside them in pieces of 256 bytes: queries
  // and results of 512 x 8192 bf16, qkv of 512 x 10240, operands of tiled_capacity(512) = 776 rows
  // of 6144 and 8192, and the lists: 2,048 twice, a table of 32 x 4096 pages, 31 x 4 twice, each
  // from a multiple of 16 on, and 31 tiles of 16 bytes.
  const std::uint64_t query = 512ULL * 8192 * 2;
  const std::uint64_t lists = 2048 + 2048 + 524'288 + 128 + 128 + 31 * 16;
  EXPECT_EQ(lists, 529'136U);
  const std::uint64_t largest =
      query + 529'152 + 528'220'160 + 512 * 10'240 * 2 + query + 776 * 6144 * 2 + 776 * 8192 * 2;
  EXPECT_EQ(largest, 578'261'760U);
  EXPECT_EQ(memory.scratch, (largest + largest / 8 + 511) / 512 * 512);
  EXPECT_EQ(memory.scratch, 650'544'640U);
  // 2 MiB / 12 a graph, rounded up, 512 of them: 89.5 MB.
  EXPECT_EQ(memory.graphs, 512 * 174'763U);
  EXPECT_EQ(memory.process, kChunkEnds);
  // Largest list: 1,024 outputs of 6,144 bf16 from the host. Beside it ranks of 256 rows (256 x 8 +
  // 32 + 1,024 x 4 bytes each) and a row of logits.
  EXPECT_EQ(memory.pinned, 1024U * 12'288 + 256 * (2048 + 32 + 4096) + 200'064 * 4);
}

TEST(WorkingMemory, PartialResultsHaveABudget) {
  // 64 sequences, 1M tokens of KV: a row has 2,048 splits, 68,157,440 bytes, so 7 of them are
  // worked on at once and the budget of 512 MiB is taken whole.
  ShardLimits limits;
  limits.kv_tokens = 1 << 20;
  const std::uint64_t scratch = shard_working_memory(config_of("M1"), limits).scratch;
  const std::uint64_t beside = shard_working_memory(config_of("M1"), {64, 64, 512, 1}).scratch;
  EXPECT_GT(scratch, 512 * kMib * 9 / 8);
  EXPECT_LT(scratch, 512 * kMib * 9 / 8 + 2 * beside);
  limits.kv_tokens = 1 << 22;  // the tables grow, partial results do not
  const std::uint64_t tables = 64ULL * ((1 << 22) - (1 << 20)) / 64 * 4;
  EXPECT_LE(shard_working_memory(config_of("M1"), limits).scratch, scratch + tables * 9 / 8 + 512);
}

TEST(WorkingMemory, AShardOfTheSmallPresetByHand) {
  // m1-small: hidden 512, 8 heads on one, 3 lightning layers of 4, vocabulary 2,048. The defaults:
  // 64 sequences, 65,536 tokens of KV, 512 rows.
  const model::ModelConfig small = config_of("m1-small");
  const WorkingMemory memory = shard_working_memory(small, {});
  ASSERT_TRUE(small.postnorm);
  const std::uint64_t row = 512 * 4;
  EXPECT_EQ(memory.activations, (2 * 512 + 2 * 512 + 256) * row + 256 * 2048 * 4 + 3 * 2560 + 512);
  // 64 decodes: 128 splits x 4,160 bytes a row, 64 rows 34,078,720; queries and results 131,072
  // each, qkv 64 x 1280 bf16 163,840, operands of tiled_capacity(64) = 328 rows of 512 and 1024.
  // Lists: 256 twice, 64 x 1024 pages, 256 twice. With 512 rows in 64 segments 63 rows are single:
  // 33,546,240 bytes, but the rest is larger. The first block of 8 MiB holds what comes before the
  // partial results; these and what follows are 34,078,720 bytes and a block of 8 MiB.
  const std::uint64_t singles = 63ULL * 128 * 4160;
  const std::uint64_t query = 512 * 1024 * 2;
  const std::uint64_t lists = 2048 + 2048 + 262'144 + 256 + 256 + 29 * 16;  // 63 x 4, then tiles
  const std::uint64_t mixed = query + (lists + 255) / 256 * 256 + singles + 512 * 1280 * 2 + query +
                              776 * 512 * 2 + 776 * 1024 * 2;
  // Growing left one block for the 64 decodes with two of 8 MiB: more than an eighth over `mixed`.
  const std::uint64_t grown = 8 * kMib + 34'078'720 + 8 * kMib;
  EXPECT_LT(mixed + mixed / 8, grown);
  EXPECT_EQ(memory.scratch, grown);
}

TEST(WorkingMemory, AWorkerOfM1ByHand) {
  // 8,192 rows of 6,144 bf16 = 100,663,296 bytes, in and out. The largest call has both in scratch,
  // beside operands of tiled_capacity(8192, 32) = 8,672 rows of 6,144 and 9,216 and lists: 32 x 4
  // twice, 8,672 x 4 twice, 32 x 8 twice.
  const std::uint64_t rows = 8192ULL * 6144 * 2;
  const std::uint64_t lists = 2 * 128 + 2 * 34'688 + 2 * 256;
  EXPECT_EQ(lists, 70'144U);
  const std::uint64_t largest = 2 * rows + lists + 8672ULL * (6144 + 9216) * 2;
  // Slabs of weights: 32 MiB in multiples of 128 rows, so 2,688 x 12,288 and 1,792 x 18,432 bytes.
  const std::uint64_t loading = 8 * kMib + 2688 * 12'288;
  EXPECT_EQ(1792 * 18'432, 2688 * 12'288);
  const WorkingMemory memory = worker_working_memory(config_of("M1"), {});
  EXPECT_EQ(memory.activations, 2 * rows);
  // Growing: the slabs' block, then one for rows from the host and 8 MiB for their places, then one
  // for operands of 9,216, and with rows in scratch one more of each kind. That is more than an
  // eighth above the largest call.
  const std::uint64_t inner = 8672 * 18'432;
  const std::uint64_t grown = loading + rows + 8 * kMib + inner + inner + rows;
  EXPECT_LT(largest + largest / 8, grown);
  EXPECT_EQ(memory.scratch, grown + loading);
  EXPECT_EQ(memory.scratch, 612'237'312U);
  EXPECT_EQ(memory.graphs, 0U);
  EXPECT_EQ(memory.process, kChunkEnds);
  EXPECT_EQ(memory.pinned, rows);
}

TEST(WorkingMemory, AWorkerOfTheSmallPresetByHand) {
  // Hidden 512, 8 experts of 256: rows 8,388,608 bytes, operands of tiled_capacity(8192, 8) = 8,504
  // rows of 512 and 256.
  const std::uint64_t rows = 8192 * 512 * 2;
  const WorkingMemory memory = worker_working_memory(config_of("m1-small"), {});
  EXPECT_EQ(memory.activations, 2 * rows);
  // Rows fill the first block of 8 MiB, their places take another. In the largest call the operand
  // of 512 no longer fits beside rows and lists, then the one of 256 (a block of 8 MiB) and the
  // rows that leave.
  const std::uint64_t loading = 8 * kMib;  // a whole matrix is 256 KiB
  EXPECT_EQ(memory.scratch, 8 * kMib + 8 * kMib + 8504 * 1024 + 8 * kMib + rows + loading);
  EXPECT_EQ(memory.pinned, rows);
}

TEST(WorkingMemory, Fp8OperandsAreSmaller) {
  WorkerLimits limits;
  const std::uint64_t bf16 = worker_working_memory(config_of("M1"), limits).scratch;
  limits.fp8 = true;
  EXPECT_LT(worker_working_memory(config_of("M1"), limits).scratch, bf16);
}

TEST(WorkingMemory, GrowsWithEveryLimit) {
  const model::ModelConfig m1 = config_of("M1");
  const std::uint64_t least = shard_working_memory(m1, {1, 64, 1, 1}).device();
  EXPECT_GT(least, 0U);
  for (const ShardLimits& more :
       {ShardLimits{16, 65'536, 512, 1}, ShardLimits{64, 65'536, 512, 1},
        ShardLimits{64, 1 << 20, 512, 1}, ShardLimits{64, 1 << 20, 512, 4},
        ShardLimits{64, 1 << 20, 8192, 4}, ShardLimits{65'536, 1 << 26, 65'536, 4}}) {
    static std::uint64_t before = least;
    const std::uint64_t now = shard_working_memory(m1, more).device();
    EXPECT_GT(now, before) << more.sequences << ' ' << more.kv_tokens << ' ' << more.batch_tokens;
    before = now;
  }
}

}  // namespace
}  // namespace fulgur::planner
