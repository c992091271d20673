#include "services/router/choice.hpp"

#include <algorithm>
#include <utility>

#include "common/text/utf8.hpp"

namespace fulgur::router {

Choice::Choice(std::shared_ptr<const GenerationRequest> request,
               std::shared_ptr<const ServedModel> model, std::shared_ptr<const TokenIds> prompt,
               std::uint32_t n_index, std::uint64_t seed)
    : request_(std::move(request)),
      model_(std::move(model)),
      prompt_(std::move(prompt)),
      seed_(choice_seed(seed, n_index)),
      max_tokens_(0),
      scanner_(request_->stop, request_->include_stop) {
  const std::uint64_t room = model_->limits().context_max - prompt_->size();
  const std::uint64_t usual =
      std::max(model_->limits().default_max_tokens, request_->min_tokens);
  max_tokens_ =
      request_->max_tokens.value_or(static_cast<std::uint32_t>(std::min(room, usual)));
  if (!request_->ignore_eos) stop_ids_ = model_->eos_ids();
  stop_ids_.insert(stop_ids_.end(), request_->stop_token_ids.begin(),
                   request_->stop_token_ids.end());
  if (model_->tokenizer()) detokenizer_.emplace(*model_->tokenizer(), request_->skip_special);
  if (request_->echo) {
    show(model_->decode(*prompt_, false));
    characters_ = text::utf8::count(delta_.text);
  }
}

wire::Submit Choice::submit(std::uint64_t id) const {
  wire::Submit submit;
  submit.request = id;
  submit.tokens = *prompt_;
  submit.tokens.insert(submit.tokens.end(), generated_.begin(), generated_.end());
  submit.prompt_tokens = static_cast<std::uint32_t>(prompt_->size());
  submit.max_new_tokens = max_tokens_;
  submit.min_new_tokens = request_->min_tokens;
  submit.stop_ids = stop_ids_;
  submit.logprobs = request_->logprobs;
  submit.top_logprobs = request_->top_logprobs;
  submit.prompt_logprobs = request_->prompt_logprobs && prompt_events_.size() < prompt_->size();
  submit.sampling = request_->sampling;
  submit.sampling.seed = seed_;
  return submit;
}

Choice::Taken Choice::take(const wire::TokenEvent& event) {
  if (finished()) return Taken::duplicate;
  const std::size_t expected = event.prompt ? prompt_events_.size() : generated_.size();
  if (event.index < expected) return Taken::duplicate;
  if (event.index > expected) return Taken::gap;
  if (event.prompt) {
    prompt_events_.push_back(event);
    return Taken::used;
  }
  generated_.push_back(event.token);
  if (request_->logprobs || request_->return_token_ids) {
    delta_.tokens.push_back(event);
    delta_.text_offsets.push_back(characters_);
  }
  if (is_stop_id(event.token)) {
    finish(wire::FinishReason::stop);
    return Taken::used;
  }
  append_text(event.token);
  if (scanner_.found()) {
    finish_reason_ = wire::FinishReason::stop;
  } else if (generated_.size() >= max_tokens_) {
    finish(wire::FinishReason::length);
  }
  return Taken::used;
}

bool Choice::is_stop_id(std::uint32_t id) const {
  return generated_.size() > request_->min_tokens && std::ranges::find(stop_ids_, id) != stop_ids_.end();
}

void Choice::append_text(std::uint32_t id) {
  if (!detokenizer_) return;
  const std::string piece = detokenizer_->push(id);
  characters_ += text::utf8::count(piece);
  if (generated_.size() < request_->min_tokens) {
    show(scanner_.flush() + piece);
  } else {
    show(scanner_.push(piece));
  }
}

void Choice::show(std::string text) { delta_.text += text; }

void Choice::finish(wire::FinishReason reason) {
  if (finished()) return;
  if (detokenizer_) show(scanner_.push(detokenizer_->flush()));
  show(scanner_.flush());
  finish_reason_ = reason;
}

std::string_view Choice::finish_reason() const {
  return finish_reason_ == wire::FinishReason::length ? "length" : "stop";
}

Delta Choice::take_delta() { return std::exchange(delta_, {}); }

}  // namespace fulgur::router
