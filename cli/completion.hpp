// One streamed answer of a mesh's HTTP API, as the command line's chat, demo and greeting use it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/http_client.hpp"

namespace fulgur::cli {

struct ChatTurn {
  std::string role;
  std::string content;
};

struct CompletionRequest {
  std::vector<ChatTurn> chat;  ///< a chat when not empty, else `prompt` is completed
  std::string prompt;
  std::uint32_t max_tokens = 64;
  double temperature = 0;
  std::uint64_t seed = 1;
  bool ignore_eos = false;
};

struct CompletionResult {
  std::string text;
  std::string finish_reason;
  std::uint64_t tokens = 0;
  double first_token_s = 0;  ///< from the request to the first text
  double total_s = 0;
  double tokens_per_second() const {
    const double decoding = total_s - first_token_s;
    return tokens > 1 && decoding > 0 ? static_cast<double>(tokens - 1) / decoding : 0;
  }
};

/// Streams; `on_text` sees every piece and may end the request by returning false. The API's error
/// message when it refuses.
Result<CompletionResult> stream_completion(HttpClient& client, const CompletionRequest& request,
                                           const std::function<bool(std::string_view)>& on_text);

}  // namespace fulgur::cli
