// What Backend::draw() and Backend::rank() take and give, and the order in which probabilities are
// added up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fulgur::kernels {

/// How the next token of one row of logits is chosen.
struct Draw {
  std::uint32_t row = 0;
  float scale = 0;     ///< 1 / temperature; 0: the most likely token, ties to the lower id
  double uniform = 0;  ///< in [0, 1): where in the distribution the draw falls, ids ascending
};

struct Drawn {
  std::uint32_t token;
  float logprob;  ///< natural, of the unmodified distribution
};

/// What draw() can do with this backend's bits: nothing; find the most likely token, which no order
/// of sums changes; all. rank() is there unless it is `none`; its totals are as exact as `all`.
enum class DrawSupport : std::uint8_t { none, most_likely, all };

/// A change of one logit before tokens are ranked and drawn, in this order. What is left at its
/// default changes nothing.
struct LogitEdit {
  std::uint32_t token = 0;
  float repetition = 1;  ///< divides a positive logit, multiplies any other
  float minus = 0;
  float plus = 0;  ///< -infinity: the token is out of the question, whatever its logit was
};

/// How one row of logits is ranked.
struct Rank {
  Draw draw;
  bool totals = false;  ///< whether RankTotals are wanted; without them draw's scale means nothing
  std::span<const LogitEdit> edits;  ///< distinct tokens of the vocabulary
};

/// A token and its logit, which is never -0.
struct RankedToken {
  float logit;
  std::uint32_t token;
};

/// Most likely tokens that rank() gives for each row.
inline constexpr std::size_t kRanks = 256;

/// Sums over a row, and what is drawn from all of it.
struct RankTotals {
  float raw_highest;  ///< of all tokens, before the edits
  float highest;      ///< of the tokens that are not banned, after the edits
  double raw_sum;     ///< of exp(logit - raw_highest) over all tokens, before the edits
  double sum;         ///< of exp((logit - highest) * scale) over those that are not banned, edited
  float logit;        ///< edited, of `token`
  std::uint32_t token;
};

/// Rows that were ranked, in host memory; reused from call to call.
struct Ranked {
  std::size_t each = 0;             ///< min(kRanks, vocab)
  std::vector<RankedToken> tokens;  ///< [rows, each] edited, by descending logit, ties to the lower
                                    ///< id, NaN last; banned tokens are among them
  std::vector<RankTotals> totals;   ///< of the rows that want them, in their order
  std::vector<float> before;        ///< logits before the edits, of all rows' edits in their order

  std::span<const RankedToken> row(std::size_t i) const {
    return std::span(tokens).subspan(i * each, each);
  }
};

// Sums over a row of logits have one order everywhere, the one that a GPU can keep: a row is cut
// into parts of kDrawColumns tokens, a part into kDrawOwn tokens a thread, and every level is added
// up in float64, ascending.
inline constexpr std::size_t kDrawColumns = 4096;
inline constexpr std::size_t kDrawOwn = 16;

/// Sum of weight(token), a double, over tokens [begin, end).
template <class Weight>
double draw_sum_own(std::size_t begin, std::size_t end, const Weight& weight) {
  double sum = 0;
  for (std::size_t token = begin; token < end; ++token) sum += weight(token);
  return sum;
}

/// The same over the part that begins at token `begin`.
template <class Weight>
double draw_sum_part(std::size_t begin, std::size_t vocab, const Weight& weight) {
  const std::size_t end = std::min(begin + kDrawColumns, vocab);
  double sum = 0;
  for (std::size_t own = begin; own < end; own += kDrawOwn) {
    sum += draw_sum_own(own, std::min(own + kDrawOwn, end), weight);
  }
  return sum;
}

/// The same over all tokens.
template <class Weight>
double draw_sum(std::size_t vocab, const Weight& weight) {
  double sum = 0;
  for (std::size_t part = 0; part < vocab; part += kDrawColumns) {
    sum += draw_sum_part(part, vocab, weight);
  }
  return sum;
}

}  // namespace fulgur::kernels
