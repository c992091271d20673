// A validated request for text: what /v1/completions and /v1/chat/completions have in common.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/wire/messages.hpp"

namespace fulgur::router {

/// Text, or token ids.
using Prompt = std::variant<std::string, std::vector<std::uint32_t>>;

struct GenerationRequest {
  bool chat = false;
  std::string model;              ///< as the client named it
  std::vector<Prompt> prompts;    ///< completions
  nlohmann::ordered_json messages;        ///< chat: validated list; contents are strings or null
  nlohmann::ordered_json tools;           ///< chat: list or null
  bool add_generation_prompt = true;
  bool add_special_tokens = true;  ///< completions: what the tokenizer puts around a text

  bool stream = false;
  bool include_usage = false;
  bool echo = false;
  bool logprobs = false;
  std::uint8_t top_logprobs = 0;
  bool prompt_logprobs = false;
  bool return_token_ids = false;

  std::uint32_t n = 1;
  std::optional<std::uint64_t> seed;  ///< drawn at random when absent
  std::optional<std::uint32_t> max_tokens;
  std::uint32_t min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<std::uint32_t> stop_token_ids;
  bool include_stop = false;   ///< keep the stop string in the text
  bool ignore_eos = false;
  bool skip_special = true;    ///< control tokens produce no text
  wire::SamplingParams sampling;  ///< but for the seed

  /// Sequences this request runs.
  std::size_t choices() const { return (chat ? 1 : prompts.size()) * n; }
};

/// The seed of choice `index` (0 .. n-1) of every prompt: the request's own for the first, so that
/// n = 1 reproduces it.
std::uint64_t choice_seed(std::uint64_t seed, std::uint32_t index);

}  // namespace fulgur::router
