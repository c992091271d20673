// Draws and ranks of the CUDA backend. All that is asked for goes to the device in one copy, and
// all that is answered comes back in one: a round trip costs more than most of the kernels.
#include <algorithm>
#include <cstring>

#include "common/base/assert.hpp"
#include "kernels/cuda/cuda_backend.hpp"

namespace fulgur::kernels::cuda {
namespace {

/// A bit a token.
std::vector<std::uint32_t> mask_of(std::span<const std::uint32_t> tokens, std::size_t vocab) {
  std::vector<std::uint32_t> mask((vocab + 31) / 32);
  for (const std::uint32_t token : tokens) mask.at(token / 32) |= 1U << (token % 32);
  return mask;
}

/// What rank() brings to the device.
struct RankLists {
  std::vector<std::uint32_t> rows;
  std::vector<portable::RowEdit> edits;
  std::vector<portable::DrawRow> totals;  ///< rows that want totals
  std::vector<portable::DrawRow> raw;     ///< of those the ones that edits change
  std::vector<std::uint32_t> raw_rows;    ///< [totals] index in raw, or kOwnParts
};

RankLists lists_of(std::span<const Rank> rows, std::size_t vocab) {
  RankLists lists;
  for (const Rank& rank : rows) {
    lists.rows.push_back(rank.draw.row);
    for (const LogitEdit& edit : rank.edits) {
      FULGUR_ASSERT(edit.token < vocab, "an edit outside the vocabulary");
      lists.edits.push_back({rank.draw.row, edit});
    }
    if (!rank.totals) continue;
    lists.totals.push_back({rank.draw.uniform, rank.draw.scale, rank.draw.row});
    lists.raw_rows.push_back(portable::kOwnParts);
    if (rank.edits.empty()) continue;
    lists.raw_rows.back() = static_cast<std::uint32_t>(lists.raw.size());
    lists.raw.push_back({0, 0, rank.draw.row});
  }
  return lists;
}

}  // namespace

void CudaBackend::draw(const float* logits, std::size_t vocab, std::span<const Draw> rows,
                       std::span<const std::uint32_t> banned, Drawn* out) {
  FULGUR_ASSERT(portable::draw_parts(vocab) <= portable::kDrawPartsMax, "vocabulary too large");
  if (rows.empty()) return;
  std::vector<portable::DrawRow> draws;
  for (const Draw& row : rows) draws.push_back({row.uniform, row.scale, row.row});
  const std::vector<std::uint32_t> mask = mask_of(banned, vocab);
  work_.begin();
  const portable::DrawRow* device_rows = nullptr;
  const std::uint32_t* device_mask = nullptr;
  Lists lists(work_);
  lists.add(draws, device_rows);
  lists.add(mask, device_mask);
  lists.send();
  auto* parts = work_.take<portable::DrawPart>(rows.size() * portable::draw_parts(vocab));
  auto* drawn = work_.take<Drawn>(rows.size());
  check(
      portable::draw(logits, vocab, device_rows, rows.size(), device_mask, parts, drawn, stream()),
      "draw");
  work_.copy_out(out, drawn, rows.size() * sizeof(Drawn));
}

void CudaBackend::rank(float* logits, std::size_t vocab, std::span<const Rank> rows,
                       std::span<const std::uint32_t> banned, Ranked& out) {
  FULGUR_ASSERT(portable::draw_parts(vocab) <= portable::kDrawPartsMax, "vocabulary too large");
  const RankLists host = lists_of(rows, vocab);
  const std::vector<std::uint32_t> mask = mask_of(banned, vocab);
  out.each = std::min(kRanks, vocab);
  out.tokens.resize(rows.size() * out.each);
  out.totals.resize(host.totals.size());
  out.before.resize(host.edits.size());
  if (rows.empty()) return;
  work_.begin();
  struct {
    const std::uint32_t* rows;
    const portable::RowEdit* edits;
    const portable::DrawRow* totals;
    const portable::DrawRow* raw;
    const std::uint32_t* raw_rows;
    const std::uint32_t* mask;
  } device{};
  Lists lists(work_);
  lists.add(host.rows, device.rows);
  lists.add(host.edits, device.edits);
  lists.add(host.totals, device.totals);
  lists.add(host.raw, device.raw);
  lists.add(host.raw_rows, device.raw_rows);
  lists.add(mask, device.mask);
  lists.send();
  // Answers lie one behind the other, in one block of memory.
  const std::size_t tokens_bytes = rows.size() * kRanks * sizeof(RankedToken);
  const std::size_t totals_bytes = host.totals.size() * sizeof(RankTotals);
  constexpr std::size_t kAlignment = alignof(RankTotals);
  const std::size_t bytes =
      tokens_bytes + totals_bytes +
      (host.edits.size() * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
  auto* answer = work_.take<std::byte>(bytes);
  auto* tokens = reinterpret_cast<RankedToken*>(answer);
  auto* totals = reinterpret_cast<RankTotals*>(answer + tokens_bytes);
  auto* before = reinterpret_cast<float*>(answer + tokens_bytes + totals_bytes);

  const std::size_t parts_each = portable::draw_parts(vocab);
  portable::DrawPart* raw_parts = nullptr;
  if (!host.raw.empty()) {
    raw_parts = work_.take<portable::DrawPart>(host.raw.size() * parts_each);
    check(portable::draw_sums(logits, vocab, device.raw, host.raw.size(), device.mask, raw_parts,
                              stream()),
          "rank");
  }
  check(portable::edit_logits(logits, vocab, device.edits, host.edits.size(), before, stream()),
        "rank");
  if (!host.totals.empty()) {
    auto* parts = work_.take<portable::DrawPart>(host.totals.size() * parts_each);
    auto* drawn = work_.take<Drawn>(host.totals.size());
    check(portable::draw(logits, vocab, device.totals, host.totals.size(), device.mask, parts,
                         drawn, stream()),
          "rank");
    check(portable::draw_totals(logits, vocab, device.totals, host.totals.size(), parts,
                                device.raw_rows, raw_parts, drawn, totals, stream()),
          "rank");
  }
  auto* groups = work_.take<std::uint64_t>(rows.size() * parts_each * kRanks);
  check(portable::rank(logits, vocab, device.rows, rows.size(), groups, tokens, stream()), "rank");

  if (ranked_bytes_ < bytes) {
    ranked_ = allocate_host(bytes);
    ranked_bytes_ = bytes;
  }
  work_.copy_out(ranked_.get(), answer, bytes);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(out.tokens.data() + i * out.each, ranked_.get() + i * kRanks * sizeof(RankedToken),
                out.each * sizeof(RankedToken));
  }
  if (totals_bytes > 0) std::memcpy(out.totals.data(), ranked_.get() + tokens_bytes, totals_bytes);
  if (!out.before.empty()) {
    std::memcpy(out.before.data(), ranked_.get() + tokens_bytes + totals_bytes,
                out.before.size() * sizeof(float));
  }
}

}  // namespace fulgur::kernels::cuda
