#include "services/router/openai_response.hpp"

#include <algorithm>
#include <utility>

#include "common/text/utf8.hpp"

namespace fulgur::router {
namespace {

/// JSON has no infinity: a banned token gets what OpenAI's clients expect for one.
constexpr float kLeastLogprob = -9999.0F;
double finite(float logprob) { return std::max(logprob, kLeastLogprob); }

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

std::string event(const Json& json) { return "data: " + dump(json) + "\n\n"; }

}  // namespace

OpenAiResponse::OpenAiResponse(std::shared_ptr<const GenerationRequest> request,
                               std::shared_ptr<const ServedModel> model, std::string id,
                               std::int64_t created)
    : request_(std::move(request)), model_(std::move(model)), id_(std::move(id)),
      created_(created) {}

Json OpenAiResponse::head(std::string_view object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_->name()}};
}

Json OpenAiResponse::token_entry(std::uint32_t id, float logprob) const {
  Json bytes = Json::array();
  if (model_->tokenizer()) {
    for (const char c : model_->tokenizer()->token_bytes(id)) {
      bytes.push_back(static_cast<unsigned>(static_cast<unsigned char>(c)));
    }
  }
  return {{"token", model_->token_text(id)}, {"logprob", finite(logprob)}, {"bytes", bytes}};
}

Json OpenAiResponse::chat_logprobs(const Delta& delta) const {
  Json content = Json::array();
  for (const auto& token : delta.tokens) {
    Json entry = token_entry(token.token, token.logprob);
    Json top = Json::array();
    for (const auto& other : token.top) top.push_back(token_entry(other.token, other.logprob));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

Json OpenAiResponse::completion_logprobs(const Choice& choice, const Delta& delta,
                                         bool with_prompt) const {
  Json tokens = Json::array();
  Json logprobs = Json::array();
  Json tops = Json::array();
  Json offsets = Json::array();
  const auto add = [&](const wire::TokenEvent& token, std::size_t offset, bool known) {
    const std::string text = model_->token_text(token.token);
    Json top = Json::object();
    for (const auto& other : token.top) {
      top[model_->token_text(other.token)] = finite(other.logprob);
    }
    if (known && request_->top_logprobs > 0) top[text] = finite(token.logprob);
    tokens.push_back(text);
    logprobs.push_back(known ? Json(finite(token.logprob)) : Json(nullptr));
    tops.push_back(known && request_->top_logprobs > 0 ? std::move(top) : Json(nullptr));
    offsets.push_back(offset);
  };
  if (with_prompt) {
    std::optional<text::Detokenizer> text;
    if (model_->tokenizer()) text.emplace(*model_->tokenizer());
    std::size_t offset = 0;
    for (const auto& token : choice.prompt_events()) {
      add(token, offset, token.index > 0);  // nothing precedes the first token
      if (text) offset += text::utf8::count(text->push(token.token));
    }
  }
  for (std::size_t i = 0; i < delta.tokens.size(); ++i) {
    add(delta.tokens[i], delta.text_offsets[i], true);
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json OpenAiResponse::logprobs(const Choice& choice, const Delta& delta, bool with_prompt) const {
  if (!request_->logprobs) return nullptr;
  return request_->chat ? chat_logprobs(delta)
                        : completion_logprobs(choice, delta, with_prompt && request_->echo);
}

void OpenAiResponse::add_token_ids(Json& entry, const Choice& choice, const Delta& delta,
                                   bool with_prompt) const {
  if (!request_->return_token_ids) return;
  if (with_prompt) entry["prompt_token_ids"] = choice.prompt();
  Json ids = Json::array();
  for (const auto& token : delta.tokens) ids.push_back(token.token);
  entry["token_ids"] = std::move(ids);
}

std::string OpenAiResponse::chunk(std::uint32_t index, const Choice& choice, const Delta& delta,
                                  bool first) const {
  Json entry{{"index", index}};
  if (request_->chat) {
    Json message = Json::object();
    if (first) message["role"] = "assistant";
    if (first || !delta.text.empty()) message["content"] = delta.text;
    entry["delta"] = std::move(message);
  } else {
    entry["text"] = delta.text;
  }
  const bool has_tokens = !delta.tokens.empty() || (first && !choice.prompt_events().empty());
  entry["logprobs"] = has_tokens ? logprobs(choice, delta, first) : Json(nullptr);
  entry["finish_reason"] = choice.finished() ? Json(choice.finish_reason()) : Json(nullptr);
  add_token_ids(entry, choice, delta, first);
  Json chunk = head(request_->chat ? "chat.completion.chunk" : "text_completion");
  chunk["choices"] = Json::array({std::move(entry)});
  if (request_->include_usage) chunk["usage"] = nullptr;
  return event(chunk);
}

std::string OpenAiResponse::usage_chunk(const Usage& usage) const {
  Json chunk = head(request_->chat ? "chat.completion.chunk" : "text_completion");
  chunk["choices"] = Json::array();
  chunk["usage"] = usage_json(usage);
  return event(chunk);
}

std::string OpenAiResponse::error_chunk(const std::string& error_body) {
  return "data: " + error_body + "\n\n";
}

void OpenAiResponse::add(std::uint32_t index, const Choice& choice, const Delta& delta) {
  Json entry{{"index", index}};
  if (request_->chat) {
    entry["message"] = {{"role", "assistant"}, {"content", delta.text}, {"refusal", nullptr}};
  } else {
    entry["text"] = delta.text;
  }
  entry["logprobs"] = logprobs(choice, delta, true);
  entry["finish_reason"] = choice.finish_reason();
  add_token_ids(entry, choice, delta, true);
  choices_.push_back(std::move(entry));
}

std::string OpenAiResponse::body(const Usage& usage) const {
  Json body = head(request_->chat ? "chat.completion" : "text_completion");
  body["choices"] = choices_;
  body["usage"] = usage_json(usage);
  return dump(body);
}

}  // namespace fulgur::router
