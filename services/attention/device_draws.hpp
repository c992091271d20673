// Tokens of a chunk of rows of logits, chosen where the logits are. Plain draws are the backend's
// altogether (Backend::draw()); for the others the backend edits and ranks the row
// (Backend::rank()), and the sampler finishes from the ranked tokens. What a backend cannot do with
// the bits of its numerics, and what the ranked tokens do not suffice for, is left to the caller,
// who has the whole row. Reused from chunk to chunk.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/attention/sampler.hpp"

namespace fulgur::attention {

class DeviceDraws {
 public:
  /// A token and, as far as asked for, its log-probabilities.
  struct Chosen {
    std::uint32_t token = 0;
    Logprobs logprobs;
  };

  /// `vocab` tokens a row.
  DeviceDraws(kernels::DrawSupport support, std::size_t vocab) : support_(support), vocab_(vocab) {}

  /// Forgets all rows: a new chunk.
  void clear();
  /// Asks for the next token of a row, unless that is the caller's; rows ascending.
  void add(std::uint32_t row, const wire::Submit& submit, const DrawContext& context);
  /// Has the backend choose and rank. logits [*, vocab] in its memory; rows that were edited stay
  /// so.
  void run(kernels::Backend& backend, float* logits, std::span<const std::uint32_t> banned);
  /// run() of `count` rows at their most expensive, drawn and ranked both, so that the backend has
  /// taken the memory for any chunk of so many; logits [count, vocab] keep their values.
  void rehearse(kernels::Backend& backend, float* logits, std::size_t count,
                std::span<const std::uint32_t> banned);
  /// The row's token; nothing: the caller's. Arguments as in add().
  std::optional<Chosen> chosen(std::uint32_t row, const wire::Submit& submit,
                               const DrawContext& context) const;
  /// Takes edits back in a copy of the row [vocab].
  void restore(std::uint32_t row, std::span<float> logits) const;

 private:
  struct RankedDraw {
    std::vector<kernels::LogitEdit> edits;
    std::size_t first_edit = 0;  ///< of them in ranked_.before
    std::size_t total = 0;       ///< of ranked_.totals, if they were asked for
  };
  /// Index of the row in `asked`, or nothing.
  template <class Asked>
  static std::optional<std::size_t> find(const std::vector<Asked>& asked, std::uint32_t row);

  const kernels::DrawSupport support_;
  const std::size_t vocab_;
  std::vector<kernels::Draw> draws_;
  std::vector<kernels::Drawn> drawn_;
  std::vector<kernels::Rank> ranks_;
  std::vector<RankedDraw> ranked_draws_;  ///< beside ranks_
  kernels::Ranked ranked_;
  std::size_t edits_ = 0;
  std::size_t totals_ = 0;
};

}  // namespace fulgur::attention
