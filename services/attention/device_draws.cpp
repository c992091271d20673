#include "services/attention/device_draws.hpp"

#include <algorithm>

#include "common/base/rng.hpp"

namespace fulgur::attention {
namespace {

// Edits of a row that rehearse() takes memory for; penalties over a longer history take it when
// they come, as a step that may be refused it.
constexpr std::size_t kEditsRehearsed = 1024;

std::uint32_t row_of(const kernels::Draw& draw) { return draw.row; }
std::uint32_t row_of(const kernels::Rank& rank) { return rank.draw.row; }

}  // namespace

template <class Asked>
std::optional<std::size_t> DeviceDraws::find(const std::vector<Asked>& asked, std::uint32_t row) {
  const auto place = std::lower_bound(
      asked.begin(), asked.end(), row,
      [](const Asked& each, std::uint32_t wanted) { return row_of(each) < wanted; });
  if (place == asked.end() || row_of(*place) != row) return std::nullopt;
  return static_cast<std::size_t>(place - asked.begin());
}

void DeviceDraws::clear() {
  draws_.clear();
  ranks_.clear();
  ranked_draws_.clear();
  edits_ = totals_ = 0;
}

void DeviceDraws::add(std::uint32_t row, const wire::Submit& submit, const DrawContext& context) {
  if (support_ == kernels::DrawSupport::none) return;
  const wire::SamplingParams& params = submit.sampling;
  const bool greedy = is_greedy(params);
  const bool sums = submit.logprobs || needs_sum(params);
  // Which token is most likely, and which are the next, is the same on every backend; sums are not.
  if (sums && support_ == kernels::DrawSupport::most_likely) return;
  const kernels::Draw draw{row, greedy ? 0.0F : 1.0F / params.temperature,
                           random_uniform(params.seed, context.tokens.size())};
  std::vector<kernels::LogitEdit> edits = logit_edits(context, vocab_);
  const bool alternatives = submit.logprobs && submit.top_logprobs > 0;
  if (edits.empty() && !alternatives && (greedy || !is_ranked(params))) {
    draws_.push_back(draw);
    return;
  }
  ranks_.push_back({draw, sums, {}});
  ranked_draws_.push_back({std::move(edits), edits_, totals_});
  edits_ += ranked_draws_.back().edits.size();
  totals_ += sums ? 1 : 0;
}

void DeviceDraws::run(kernels::Backend& backend, float* logits,
                      std::span<const std::uint32_t> banned) {
  drawn_.resize(draws_.size());
  if (!draws_.empty()) backend.draw(logits, vocab_, draws_, banned, drawn_.data());
  for (std::size_t i = 0; i < ranks_.size(); ++i) ranks_[i].edits = ranked_draws_[i].edits;
  if (!ranks_.empty()) backend.rank(logits, vocab_, ranks_, banned, ranked_);
}

void DeviceDraws::rehearse(kernels::Backend& backend, float* logits, std::size_t count,
                           std::span<const std::uint32_t> banned) {
  if (support_ == kernels::DrawSupport::none) return;
  clear();
  const bool sums = support_ == kernels::DrawSupport::all;
  std::vector<kernels::LogitEdit> edits(std::min(kEditsRehearsed, vocab_));  // that change nothing
  for (std::size_t i = 0; i < edits.size(); ++i) edits[i].token = static_cast<std::uint32_t>(i);
  for (std::size_t row = 0; row < count; ++row) {
    draws_.push_back({static_cast<std::uint32_t>(row), sums ? 1.0F : 0.0F, 0.5});
    ranks_.push_back({draws_.back(), sums, {}});
    ranked_draws_.push_back({edits, row * edits.size(), row});
  }
  run(backend, logits, banned);
  clear();
}

std::optional<DeviceDraws::Chosen> DeviceDraws::chosen(std::uint32_t row,
                                                       const wire::Submit& submit,
                                                       const DrawContext& context) const {
  if (const auto at = find(draws_, row))
    return Chosen{drawn_[*at].token, {drawn_[*at].logprob, {}}};
  const auto at = find(ranks_, row);
  if (!at) return std::nullopt;
  const RankedDraw& asked = ranked_draws_[*at];
  RankedRow ranked;
  ranked.tokens = ranked_.row(*at);
  ranked.vocab = vocab_;
  if (ranks_[*at].totals) ranked.totals = &ranked_.totals[asked.total];
  ranked.edits = asked.edits;
  ranked.before = std::span(ranked_.before).subspan(asked.first_edit, asked.edits.size());
  const auto token = draw_token(ranked, context);
  if (!token) return std::nullopt;
  if (!submit.logprobs) return Chosen{*token, {}};
  auto logprobs = log_probabilities(ranked, *token, submit.top_logprobs);
  if (!logprobs) return std::nullopt;
  return Chosen{*token, std::move(*logprobs)};
}

void DeviceDraws::restore(std::uint32_t row, std::span<float> logits) const {
  const auto at = find(ranks_, row);
  if (!at) return;
  const RankedDraw& asked = ranked_draws_[*at];
  for (std::size_t i = 0; i < asked.edits.size(); ++i) {
    logits[asked.edits[i].token] = ranked_.before[asked.first_edit + i];
  }
}

}  // namespace fulgur::attention
