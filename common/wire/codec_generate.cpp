// Submit, Tokens, Done, Cancel <-> their schema.
#include "common/wire/codec_detail.hpp"

namespace fulgur::wire::detail {
namespace {

void put_numbers(capnp::List<std::uint32_t>::Builder to, const std::vector<std::uint32_t>& from) {
  for (unsigned i = 0; i < to.size(); ++i) to.set(i, from[i]);
}

void put(schema::SamplingParams::Builder to, const SamplingParams& from) {
  to.setTemperature(from.temperature);
  to.setTopP(from.top_p);
  to.setTopK(from.top_k);
  to.setMinP(from.min_p);
  to.setPresencePenalty(from.presence_penalty);
  to.setFrequencyPenalty(from.frequency_penalty);
  to.setRepetitionPenalty(from.repetition_penalty);
  to.setSeed(from.seed);
  auto bias = to.initLogitBias(static_cast<unsigned>(from.logit_bias.size()));
  for (unsigned i = 0; i < bias.size(); ++i) {
    bias[i].setToken(from.logit_bias[i].first);
    bias[i].setBias(from.logit_bias[i].second);
  }
}

Status get(schema::SamplingParams::Reader from, SamplingParams& to) {
  to.temperature = from.getTemperature();
  to.top_p = from.getTopP();
  to.top_k = from.getTopK();
  to.min_p = from.getMinP();
  to.presence_penalty = from.getPresencePenalty();
  to.frequency_penalty = from.getFrequencyPenalty();
  to.repetition_penalty = from.getRepetitionPenalty();
  to.seed = from.getSeed();
  return read_list(from.getLogitBias(), kMaxLogitBias, "submit.sampling.logit_bias", to.logit_bias,
                   [](schema::LogitBias::Reader bias, std::pair<std::uint32_t, float>& out) {
                     out = {bias.getToken(), bias.getBias()};
                     return Status::ok();
                   });
}

void put(schema::TokenEvent::Builder to, const TokenEvent& from) {
  to.setRequest(from.request);
  to.setIndex(from.index);
  to.setToken(from.token);
  to.setPrompt(from.prompt);
  to.setLogprob(from.logprob);
  if (from.top.empty()) return;
  auto top = to.initTop(static_cast<unsigned>(from.top.size()));
  for (unsigned i = 0; i < top.size(); ++i) {
    top[i].setToken(from.top[i].token);
    top[i].setLogprob(from.top[i].logprob);
  }
}

Status get(schema::TokenEvent::Reader from, TokenEvent& to) {
  to.request = from.getRequest();
  to.index = from.getIndex();
  to.token = from.getToken();
  to.prompt = from.getPrompt();
  to.logprob = from.getLogprob();
  return read_list(from.getTop(), kMaxTopLogprobs, "tokens.events.top", to.top,
                   [](schema::TokenLogprob::Reader top, TokenLogprob& out) {
                     out = {top.getToken(), top.getLogprob()};
                     return Status::ok();
                   });
}

}  // namespace

void put(schema::Submit::Builder to, const Submit& from) {
  to.setRequest(from.request);
  put_numbers(to.initTokens(static_cast<unsigned>(from.tokens.size())), from.tokens);
  to.setPromptTokens(from.prompt_tokens);
  to.setMaxNewTokens(from.max_new_tokens);
  put_numbers(to.initStopIds(static_cast<unsigned>(from.stop_ids.size())), from.stop_ids);
  to.setMinNewTokens(from.min_new_tokens);
  to.setTopLogprobs(from.top_logprobs);
  to.setLogprobs(from.logprobs);
  to.setPromptLogprobs(from.prompt_logprobs);
  put(to.initSampling(), from.sampling);
  to.setSnapshot(from.snapshot);
}

Status get(schema::Submit::Reader from, Submit& to) {
  to.request = from.getRequest();
  FULGUR_RETURN_IF_ERROR(read_numbers(from.getTokens(), kMaxTokens, "submit.tokens", to.tokens));
  to.prompt_tokens = from.getPromptTokens();
  to.max_new_tokens = from.getMaxNewTokens();
  FULGUR_RETURN_IF_ERROR(
      read_numbers(from.getStopIds(), kMaxStopIds, "submit.stop_ids", to.stop_ids));
  to.min_new_tokens = from.getMinNewTokens();
  to.top_logprobs = from.getTopLogprobs();
  to.logprobs = from.getLogprobs();
  to.prompt_logprobs = from.getPromptLogprobs();
  to.snapshot = from.getSnapshot();
  return get(from.getSampling(), to.sampling);
}

void put(schema::Tokens::Builder to, const Tokens& from) {
  auto events = to.initEvents(static_cast<unsigned>(from.events.size()));
  for (unsigned i = 0; i < events.size(); ++i) put(events[i], from.events[i]);
}

Status get(schema::Tokens::Reader from, Tokens& to) {
  return read_list(
      from.getEvents(), kMaxTokenEvents, "tokens.events", to.events,
      [](schema::TokenEvent::Reader event, TokenEvent& out) { return get(event, out); });
}

void put(schema::Done::Builder to, const Done& from) {
  to.setRequest(from.request);
  to.setReason(static_cast<schema::FinishReason>(from.reason));
  to.setCode(static_cast<std::uint8_t>(from.code));
  to.setMessage(text(from.message));
  to.setGeneratedTokens(from.generated_tokens);
  to.setDraining(from.draining);
  if (!from.moved_to.empty()) to.setMovedTo(text(from.moved_to));
  to.setSnapshot(from.snapshot);
}

Status get(schema::Done::Reader from, Done& to) {
  to.request = from.getRequest();
  to.reason = read_enum<FinishReason>(from.getReason());
  to.code = static_cast<Code>(from.getCode());
  to.generated_tokens = from.getGeneratedTokens();
  to.draining = from.getDraining();
  to.snapshot = from.getSnapshot();
  FULGUR_RETURN_IF_ERROR(
      read_text(from.getMovedTo(), kMaxNameBytes, "done.moved_to", to.moved_to));
  return read_text(from.getMessage(), kMaxTextBytes, "done.message", to.message);
}

void put(schema::Cancel::Builder to, const Cancel& from) { to.setRequest(from.request); }

Status get(schema::Cancel::Reader from, Cancel& to) {
  to.request = from.getRequest();
  return Status::ok();
}

}  // namespace fulgur::wire::detail
