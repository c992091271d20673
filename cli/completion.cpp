#include "cli/completion.hpp"

#include <chrono>
#include <nlohmann/json.hpp>

namespace fulgur::cli {
namespace {

using nlohmann::json;

constexpr Nanoseconds kSilence = 120 * kSecond;

std::string request_body(const CompletionRequest& request) {
  json body = {{"stream", true},
               {"stream_options", {{"include_usage", true}}},
               {"max_tokens", request.max_tokens},
               {"temperature", request.temperature},
               {"seed", request.seed},
               {"ignore_eos", request.ignore_eos}};
  if (request.chat.empty()) {
    body["prompt"] = request.prompt;
  } else {
    body["messages"] = json::array();
    for (const auto& turn : request.chat)
      body["messages"].push_back({{"role", turn.role}, {"content", turn.content}});
  }
  return body.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// Text of one chunk of either API; notes usage and the finish reason in `result`.
std::string read_chunk(const json& chunk, CompletionResult& result) {
  std::string text;
  if (const auto usage = chunk.find("usage"); usage != chunk.end() && usage->is_object())
    result.tokens = usage->value("completion_tokens", std::uint64_t{0});
  for (const auto& choice : chunk.value("choices", json::array())) {
    if (choice.contains("text") && choice["text"].is_string())
      text += choice["text"].get<std::string>();
    if (choice.contains("delta") && choice["delta"].contains("content") &&
        choice["delta"]["content"].is_string())
      text += choice["delta"]["content"].get<std::string>();
    if (choice.contains("finish_reason") && choice["finish_reason"].is_string())
      result.finish_reason = choice["finish_reason"].get<std::string>();
  }
  return text;
}

std::string api_error(const HttpResponse& response) {
  const json body = json::parse(response.body, nullptr, false);
  if (body.is_object() && body.contains("error") && body["error"].is_object())
    return body["error"].value("message", response.body);
  return fmt::format("HTTP {}", response.status);
}

}  // namespace

Result<CompletionResult> stream_completion(HttpClient& client, const CompletionRequest& request,
                                           const std::function<bool(std::string_view)>& on_text) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  CompletionResult result;
  bool wanted = true;
  std::string failure;
  SseReader events([&](std::string_view data) {
    const json chunk = json::parse(data, nullptr, false);
    if (!chunk.is_object()) return;  // "[DONE]"
    if (chunk.contains("error")) failure = chunk["error"].value("message", "the stream broke");
    const std::string text = read_chunk(chunk, result);
    if (text.empty()) return;
    if (result.text.empty()) result.first_token_s = elapsed();
    result.text += text;
    result.total_s = elapsed();
    wanted = wanted && on_text(text);
  });
  const char* const path = request.chat.empty() ? "/v1/completions" : "/v1/chat/completions";
  auto response =
      client.post_stream(path, request_body(request), kSilence, [&](std::string_view bytes) {
        events.feed(bytes);
        return wanted;
      });
  if (!wanted) return result;
  if (!response.is_ok()) return response.status();
  if (response->status != 200) return Status(Code::unavailable, api_error(*response));
  if (!failure.empty()) return Status(Code::unavailable, failure);
  return result;
}

}  // namespace fulgur::cli
