// Bodies of /v1/completions and /v1/chat/completions as values, every field checked. Unknown fields
// are ignored, as OpenAI does; an unsupported value of a known one is an error naming it.
#pragma once

#include <cstdint>
#include <string_view>

#include "services/router/api_error.hpp"
#include "services/router/field_reader.hpp"
#include "services/router/generation_request.hpp"

namespace fulgur::router {

/// What the checks and defaults depend on.
struct RequestLimits {
  std::uint32_t vocab = 0;
  std::uint64_t context_max = 0;    ///< tokens of prompt and answer
  std::uint32_t choices_max = 128;  ///< prompts x n
  std::uint32_t default_max_tokens = 4096;  ///< of a chat that names no limit
  wire::SamplingParams defaults;    ///< from generation_config.json
};

ApiResult<GenerationRequest> parse_completion(const Json& body, const RequestLimits& limits);
ApiResult<GenerationRequest> parse_chat(const Json& body, const RequestLimits& limits);

/// Checks a chat's messages: every content becomes a string, a list of text parts, or null.
ApiResult<Json> normalize_messages(const Json& messages);

/// The tools that a chat's template is to show; null when there are none or 'tool_choice' is "none".
Json read_tools(FieldReader& fields);

}  // namespace fulgur::router
