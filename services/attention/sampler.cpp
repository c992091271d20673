#include "services/attention/sampler.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "common/base/rng.hpp"

namespace fulgur::attention {
namespace {

using kernels::LogitEdit;
using kernels::RankedToken;

constexpr float kNever = -std::numeric_limits<float>::infinity();
/// Ranks that most draws by top_p alone need.
constexpr std::size_t kFirstRanks = 256;

bool more_likely(const RankedToken& a, const RankedToken& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

std::uint32_t argmax(std::span<const float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  return static_cast<std::uint32_t>(best - logits.begin());
}

/// Tokens of a vocabulary, and the place of each among them in ascending order: a history may be
/// long, and a draw must not wait for it to be sorted.
class TokenSet {
 public:
  explicit TokenSet(std::size_t vocab) : vocab_(vocab), words_((vocab + 63) / 64) {}
  void add(std::uint32_t token) {
    if (token < vocab_) words_[token / 64] |= std::uint64_t{1} << (token % 64);
  }
  /// An edit for each token, ascending; place() may be asked from now on.
  std::vector<LogitEdit> list() {
    std::vector<LogitEdit> edits;
    before_.reserve(words_.size());
    for (std::size_t word = 0; word < words_.size(); ++word) {
      before_.push_back(static_cast<std::uint32_t>(edits.size()));
      for (std::uint64_t left = words_[word]; left != 0; left &= left - 1) {
        edits.push_back({static_cast<std::uint32_t>(word * 64 + std::countr_zero(left))});
      }
    }
    return edits;
  }
  /// Visits the edits of those of the tokens that are in the vocabulary.
  template <class Tokens, class Visit>
  void each(const Tokens& tokens, std::vector<LogitEdit>& edits, const Visit& visit) const {
    for (const std::uint32_t token : tokens) {
      if (token >= vocab_) continue;
      const std::uint64_t lower = words_[token / 64] & ((std::uint64_t{1} << (token % 64)) - 1);
      visit(edits[before_[token / 64] + static_cast<std::uint32_t>(std::popcount(lower))]);
    }
  }

 private:
  std::size_t vocab_;
  std::vector<std::uint64_t> words_;
  std::vector<std::uint32_t> before_;  ///< tokens in the words before
};

float edited(float logit, const LogitEdit& edit) {
  if (edit.plus == kNever) return kNever;
  logit = logit > 0 ? logit / edit.repetition : logit * edit.repetition;
  return logit - edit.minus + edit.plus;
}

/// How likely a token is beside the most likely one.
double weight(float logit, float highest, float scale) {
  return std::exp(static_cast<double>((logit - highest) * scale));
}

double sum_of(std::span<const float> logits, float highest, float scale) {
  return kernels::draw_sum(
      logits.size(), [&](std::size_t token) { return weight(logits[token], highest, scale); });
}

double log_total(double raw_sum, float raw_highest) {
  return std::log(raw_sum) + static_cast<double>(raw_highest);
}
float log_probability(float logit, double total) {
  return static_cast<float>(static_cast<double>(logit) - total);
}

/// Logits below it are out of the question.
float floor_of(const wire::SamplingParams& params, float highest) {
  return params.min_p > 0 ? highest + std::log(params.min_p) * params.temperature : kNever;
}

/// Walks sums ascending until `left` is used up: the place, and what is left there. Rounding may
/// leave a rest behind all of them: then the last place that holds anything.
template <class Sum>
std::size_t walk(std::size_t count, double& left, const Sum& sum) {
  std::size_t last = 0;
  double at_last = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double here = sum(i);
    if (here > 0) {
      last = i;
      at_last = left;
    }
    if (left < here) break;
    left -= here;
  }
  left = at_last;
  return last;
}

/// One of all tokens, as Backend::draw() draws it.
std::uint32_t draw_from_all(std::span<const float> logits, float highest, float scale,
                            double uniform) {
  using kernels::kDrawColumns, kernels::kDrawOwn;
  const auto here = [&](std::size_t token) { return weight(logits[token], highest, scale); };
  std::vector<double> parts;
  double total = 0;
  for (std::size_t begin = 0; begin < logits.size(); begin += kDrawColumns) {
    parts.push_back(kernels::draw_sum_part(begin, logits.size(), here));
    total += parts.back();
  }
  double left = uniform * total;
  std::size_t begin =
      walk(parts.size(), left, [&](std::size_t i) { return parts[i]; }) * kDrawColumns;
  std::size_t end = std::min(begin + kDrawColumns, logits.size());
  begin += walk((end - begin + kDrawOwn - 1) / kDrawOwn, left,
                [&](std::size_t i) {
                  const std::size_t own = begin + i * kDrawOwn;
                  return kernels::draw_sum_own(own, std::min(own + kDrawOwn, end), here);
                }) *
           kDrawOwn;
  end = std::min(begin + kDrawOwn, end);
  begin += walk(end - begin, left, [&](std::size_t i) { return here(begin + i); });
  return static_cast<std::uint32_t>(begin);
}

/// Whether it matters which tokens are more likely than others; not if min_p is all.
bool needs_ranks(const wire::SamplingParams& params) {
  return params.top_k > 0 || params.top_p < 1.0F;
}

/// The most likely tokens of those that may be drawn, at least one: by descending likelihood if
/// needs_ranks(), else by ascending id.
struct Ranking {
  std::vector<RankedToken> tokens;
  bool complete = false;  ///< whether no other may be drawn
};

/// Draws by top_k, top_p and min_p; nothing when tokens are missing for that. sum: of the weights
/// of all tokens, if needs_sum().
std::optional<std::uint32_t> draw_from_ranking(Ranking ranking, float highest,
                                               const wire::SamplingParams& params, double sum,
                                               double uniform) {
  auto& tokens = ranking.tokens;
  const float scale = 1.0F / params.temperature;
  if (params.top_k > 0 && tokens.size() >= params.top_k) {
    tokens.resize(params.top_k);
    ranking.complete = true;
  }
  if (!ranking.complete && !needs_sum(params)) return std::nullopt;
  std::vector<double> weights;
  for (const RankedToken& token : tokens) weights.push_back(weight(token.logit, highest, scale));
  const auto total = [&] {
    double all = 0;
    for (const double each : weights) all += each;
    return all;
  };
  if (params.top_p < 1.0F) {
    // The smallest set of the most likely tokens whose probability reaches top_p.
    const double wanted = params.top_p * (needs_sum(params) ? sum : total());
    double reached = 0;
    std::size_t kept = 0;
    while (kept < weights.size() && reached < wanted) reached += weights[kept++];
    if (reached < wanted && !ranking.complete) return std::nullopt;
    weights.resize(std::max<std::size_t>(kept, 1));
  }
  double left = uniform * total();
  return tokens[walk(weights.size(), left, [&](std::size_t i) { return weights[i]; })].token;
}

/// Sorts [begin, middle) of the most likely of [begin, end), and leaves the others behind.
template <class Iterator>
void rank_first(Iterator begin, Iterator middle, Iterator end) {
  if (middle - begin <= 1024) return std::partial_sort(begin, middle, end, more_likely);
  std::nth_element(begin, middle, end, more_likely);
  std::sort(begin, middle, more_likely);
}

/// Ranks no more of the row than the draw needs.
std::uint32_t draw_by_rank(std::span<const float> logits, std::uint32_t best,
                           const wire::SamplingParams& params, double uniform) {
  const float highest = logits[best];
  const float floor = floor_of(params, highest);
  std::vector<RankedToken> all;
  all.reserve(params.min_p > 0 ? 64 : logits.size());
  for (std::uint32_t token = 0; token < logits.size(); ++token) {
    if (logits[token] >= floor && logits[token] != kNever) all.push_back({logits[token], token});
  }
  if (all.empty()) return best;
  const float scale = 1.0F / params.temperature;
  const double sum = needs_sum(params) ? sum_of(logits, highest, scale) : 0.0;
  std::size_t sorted = 0;
  std::size_t wanted = all.size();
  if (needs_sum(params)) wanted = kFirstRanks;
  if (params.top_k > 0) wanted = params.top_k;
  while (true) {
    wanted = std::min(wanted, all.size());
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(sorted);
    const auto end = all.begin() + static_cast<std::ptrdiff_t>(wanted);
    if (needs_ranks(params)) rank_first(begin, end, all.end());
    const bool complete = wanted == all.size();
    const auto token =
        draw_from_ranking({{all.begin(), end}, complete}, highest, params, sum, uniform);
    if (token) return *token;
    sorted = wanted;
    wanted *= 8;
  }
}

double uniform_of(const DrawContext& context) {
  return random_uniform(context.params->seed, context.tokens.size());
}

}  // namespace

std::vector<LogitEdit> logit_edits(const DrawContext& context, std::size_t vocab) {
  const auto& params = *context.params;
  const auto generated = context.tokens.subspan(context.prompt_tokens);
  const bool counted = params.presence_penalty != 0.0F || params.frequency_penalty != 0.0F;
  if (params.repetition_penalty == 1.0F && !counted && params.logit_bias.empty() &&
      context.not_yet.empty()) {
    return {};
  }
  TokenSet set(vocab);
  if (params.repetition_penalty != 1.0F) {
    for (const std::uint32_t token : context.tokens) set.add(token);
  }
  if (counted) {
    for (const std::uint32_t token : generated) set.add(token);
  }
  for (const auto& [token, bias] : params.logit_bias) set.add(token);
  for (const std::uint32_t token : context.not_yet) set.add(token);
  std::vector<LogitEdit> edits = set.list();
  if (params.repetition_penalty != 1.0F) {
    set.each(context.tokens, edits,
             [&](LogitEdit& edit) { edit.repetition = params.repetition_penalty; });
  }
  if (counted) {
    // The counts first: a sum of many penalties would round differently.
    set.each(generated, edits, [](LogitEdit& edit) { edit.minus += 1.0F; });
    for (LogitEdit& edit : edits) {
      if (edit.minus > 0) {
        edit.minus = params.presence_penalty + params.frequency_penalty * edit.minus;
      }
    }
  }
  for (const auto& [token, bias] : params.logit_bias) {
    set.each(std::span(&token, 1), edits, [&](LogitEdit& edit) { edit.plus += bias; });
  }
  set.each(context.not_yet, edits, [](LogitEdit& edit) { edit.plus = kNever; });
  return edits;
}

std::uint32_t draw_token(std::span<float> logits, const DrawContext& context) {
  const auto& params = *context.params;
  for (const LogitEdit& edit : logit_edits(context, logits.size())) {
    logits[edit.token] = edited(logits[edit.token], edit);
  }
  for (const std::uint32_t token : context.banned) logits[token] = kNever;
  const std::uint32_t best = argmax(logits);
  if (is_greedy(params)) return best;
  if (is_ranked(params)) return draw_by_rank(logits, best, params, uniform_of(context));
  return draw_from_all(logits, logits[best], 1.0F / params.temperature, uniform_of(context));
}

std::optional<std::uint32_t> draw_token(const RankedRow& row, const DrawContext& context) {
  const auto& params = *context.params;
  Ranking ranking;
  float highest = kNever;
  float floor = kNever;
  for (const RankedToken& token : row.tokens) {
    if (std::binary_search(context.banned.begin(), context.banned.end(), token.token)) continue;
    if (ranking.tokens.empty()) {
      if (!(token.logit > kNever)) return std::nullopt;
      if (is_greedy(params)) return token.token;
      if (!is_ranked(params)) return row.totals->token;
      highest = token.logit;
      floor = floor_of(params, highest);
    }
    if (!(token.logit >= floor && token.logit != kNever)) {
      ranking.complete = true;
      break;
    }
    ranking.tokens.push_back(token);
  }
  if (ranking.tokens.empty()) return std::nullopt;
  ranking.complete |= row.tokens.size() == row.vocab;
  if (!needs_ranks(params)) {
    std::sort(ranking.tokens.begin(), ranking.tokens.end(),
              [](const RankedToken& a, const RankedToken& b) { return a.token < b.token; });
  }
  const double sum = needs_sum(params) ? row.totals->sum : 0.0;
  return draw_from_ranking(std::move(ranking), highest, params, sum, uniform_of(context));
}

Logprobs log_probabilities(std::span<const float> logits, std::uint32_t token, std::size_t top) {
  const float highest = logits[argmax(logits)];
  const double total = log_total(sum_of(logits, highest, 1.0F), highest);
  Logprobs result;
  result.chosen = log_probability(logits[token], total);
  if (top == 0) return result;
  std::vector<RankedToken> ranked(logits.size());
  for (std::uint32_t id = 0; id < logits.size(); ++id) ranked[id] = {logits[id], id};
  top = std::min(top, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(top), ranked.end(),
                    more_likely);
  for (std::size_t i = 0; i < top; ++i) {
    result.top.push_back({ranked[i].token, log_probability(ranked[i].logit, total)});
  }
  return result;
}

namespace {

/// Index of the token's edit; that of none: edits.size().
std::size_t edit_of(std::span<const LogitEdit> edits, std::uint32_t token) {
  const auto place = std::lower_bound(
      edits.begin(), edits.end(), token,
      [](const LogitEdit& edit, std::uint32_t wanted) { return edit.token < wanted; });
  if (place == edits.end() || place->token != token) return edits.size();
  return static_cast<std::size_t>(place - edits.begin());
}

/// The token's logit before it was edited, if that is known.
std::optional<float> raw_logit(const RankedRow& row, std::uint32_t token) {
  const std::size_t edit = edit_of(row.edits, token);
  if (edit < row.edits.size()) return row.before[edit];
  if (row.totals->token == token) return row.totals->logit;
  for (const RankedToken& ranked : row.tokens) {
    if (ranked.token == token) return ranked.logit;
  }
  return std::nullopt;
}

/// The `top` most likely tokens as they were before the edits. Every token that is neither ranked
/// nor edited comes behind the last ranked one.
std::optional<std::vector<RankedToken>> raw_ranking(const RankedRow& row, std::size_t top) {
  std::vector<RankedToken> ranked;
  for (const RankedToken& token : row.tokens) {
    if (edit_of(row.edits, token.token) == row.edits.size()) ranked.push_back(token);
  }
  for (std::size_t i = 0; i < row.edits.size(); ++i) {
    ranked.push_back({row.before[i], row.edits[i].token});
  }
  top = std::min(top, row.vocab);
  if (ranked.size() < top) return std::nullopt;
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(top), ranked.end(),
                    more_likely);
  ranked.resize(top);
  const bool all = row.tokens.size() == row.vocab;
  if (!all && more_likely(row.tokens.back(), ranked.back())) return std::nullopt;
  return ranked;
}

}  // namespace

std::optional<Logprobs> log_probabilities(const RankedRow& row, std::uint32_t token,
                                          std::size_t top) {
  const double total = log_total(row.totals->raw_sum, row.totals->raw_highest);
  const auto logit = raw_logit(row, token);
  if (!logit) return std::nullopt;
  Logprobs result;
  result.chosen = log_probability(*logit, total);
  if (top == 0) return result;
  const auto ranked = raw_ranking(row, top);
  if (!ranked) return std::nullopt;
  for (const RankedToken& each : *ranked) {
    result.top.push_back({each.token, log_probability(each.logit, total)});
  }
  return result;
}

}  // namespace fulgur::attention
