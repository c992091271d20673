// Answers in OpenAI's shape: whole bodies and the chunks of a stream. Plain functions of what was
// generated; the session decides when to send them.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "services/router/choice.hpp"

namespace fulgur::router {

struct Usage {
  std::size_t prompt_tokens = 0;
  std::size_t completion_tokens = 0;
};

class OpenAiResponse {
 public:
  OpenAiResponse(std::shared_ptr<const GenerationRequest> request,
                 std::shared_ptr<const ServedModel> model, std::string id, std::int64_t created);

  /// One server-sent event: "data: …\n\n". `delta` of choice `index`; `first` marks its first chunk,
  /// which carries the role or the prompt; a finished choice adds its reason.
  std::string chunk(std::uint32_t index, const Choice& choice, const Delta& delta, bool first) const;
  /// The event that reports usage, after all choices.
  std::string usage_chunk(const Usage& usage) const;
  static std::string error_chunk(const std::string& error_body);
  static constexpr std::string_view kDone = "data: [DONE]\n\n";

  /// Adds a finished choice to the body of an unstreamed answer.
  void add(std::uint32_t index, const Choice& choice, const Delta& delta);
  std::string body(const Usage& usage) const;

  const std::string& id() const { return id_; }

 private:
  Json head(std::string_view object) const;
  Json logprobs(const Choice& choice, const Delta& delta, bool with_prompt) const;
  Json chat_logprobs(const Delta& delta) const;
  Json completion_logprobs(const Choice& choice, const Delta& delta, bool with_prompt) const;
  void add_token_ids(Json& entry, const Choice& choice, const Delta& delta, bool with_prompt) const;
  Json token_entry(std::uint32_t id, float logprob) const;

  std::shared_ptr<const GenerationRequest> request_;
  std::shared_ptr<const ServedModel> model_;
  std::string id_;
  std::int64_t created_;
  Json choices_ = Json::array();
};

}  // namespace fulgur::router
