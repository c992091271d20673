#include "tests/integration/api.hpp"

#include <gtest/gtest.h>

#include <future>

#include "cli/http_client.hpp"
#include "common/base/clock.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

using nlohmann::json;

constexpr Nanoseconds kRequestTime = 240 * kSecond;

void append(Answer& answer, const json& choice) {
  answer.text += choice.value("text", "");
  for (const json& token : choice.value("token_ids", json::array())) answer.tokens.push_back(token);
  if (const json& found = choice["logprobs"]; found.is_object()) {
    for (const json& logprob : found["token_logprobs"]) answer.logprobs.push_back(logprob);
    for (const json& top : found["top_logprobs"]) answer.top_logprobs.push_back(top);
  }
  if (const json& reason = choice["finish_reason"]; reason.is_string())
    answer.finish_reason = reason;
}

void check_end(Answer& answer, const Result<cli::HttpResponse>& response) {
  if (!response.is_ok())
    answer.error = response.status().message();
  else if (response->status != 200)
    answer.error = std::to_string(response->status) + " " + response->body;
  else if (answer.error.empty() && answer.finish_reason.empty())
    answer.error = "ended without a finish reason";
}

/// Position of the first difference; the shorter length when one begins the other.
template <class List>
std::size_t first_difference(const List& a, const List& b) {
  std::size_t at = 0;
  while (at < std::min(a.size(), b.size()) && a[at] == b[at]) ++at;
  return at;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  if (!answer.error.empty()) out << "error: " << answer.error << "; ";
  return out << answer.tokens.size() << " tokens, " << answer.finish_reason << ": " << answer.text;
}

std::vector<json> mixed_requests(std::size_t count, std::uint32_t tokens) {
  const std::string sentence = "Once upon a time there was a fox who lived by the river. ";
  std::vector<json> requests;
  for (std::size_t i = 0; i < count; ++i) {
    std::string prompt = std::to_string(i) + ". ";
    for (std::size_t repeats = 0; repeats <= i % 4 * 5; ++repeats) prompt += sentence;
    json request = {{"prompt", prompt},  {"max_tokens", tokens + i % 3}, {"temperature", 0},
                    {"logprobs", i % 4}, {"return_token_ids", true},     {"ignore_eos", true}};
    if (i % 2 == 1) request.update({{"temperature", 0.9}, {"top_p", 0.95}, {"seed", 1000 + i}});
    if (i % 6 == 5) request.update({{"top_k", 20}, {"frequency_penalty", 0.3}});
    requests.push_back(std::move(request));
  }
  return requests;
}

Answer complete(const std::string& url, const json& request, const Headers& headers) {
  Answer answer;
  cli::HttpClient client(url);
  for (const std::string& line : headers) client.add_header(line);
  const auto response = client.post("/v1/completions", request.dump(), kRequestTime);
  if (response.is_ok() && response->status == 200) {
    const json body = json::parse(response->body, nullptr, false);
    if (body.is_object()) append(answer, body["choices"][0]);
  }
  check_end(answer, response);
  return answer;
}

Answer stream(const std::string& url, json request, Progress* progress, const Headers& headers) {
  const auto count = [progress](std::size_t tokens) {
    if (progress != nullptr) *progress += tokens;
  };
  return stream(url, std::move(request), count, headers);
}

Answer stream(const std::string& url, json request,
              const std::function<void(std::size_t tokens)>& on_tokens, const Headers& headers) {
  request["stream"] = true;
  Answer answer;
  cli::SseReader events([&](std::string_view data) {
    const json event = json::parse(data, nullptr, false);
    if (!event.is_object()) return;  // [DONE]
    if (event.contains("error")) answer.error = event["error"].dump();
    if (!event.contains("choices") || event["choices"].empty()) return;
    const std::size_t before = answer.tokens.size();
    append(answer, event["choices"][0]);
    on_tokens(answer.tokens.size() - before);
  });
  cli::HttpClient client(url);
  for (const std::string& line : headers) client.add_header(line);
  const auto response = client.post_stream("/v1/completions", request.dump(), kRequestTime,
                                           [&](std::string_view bytes) {
                                             events.feed(bytes);
                                             return true;
                                           });
  check_end(answer, response);
  return answer;
}

std::vector<Answer> one_by_one(const std::string& url, const std::vector<json>& requests) {
  std::vector<Answer> answers;
  for (const json& request : requests) answers.push_back(complete(url, request));
  return answers;
}

std::vector<Answer> at_once(const std::string& url, const std::vector<json>& requests,
                            bool streamed, Progress* progress) {
  std::vector<std::future<Answer>> running;
  for (const json& request : requests)
    running.push_back(std::async(std::launch::async, [&] {
      return streamed ? stream(url, request, progress) : complete(url, request);
    }));
  std::vector<Answer> answers;
  for (auto& one : running) answers.push_back(one.get());
  return answers;
}

void expect_equal(const std::vector<Answer>& answers, const std::vector<Answer>& expected) {
  ASSERT_EQ(answers.size(), expected.size());
  for (std::size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].error, "") << "request " << i;
    EXPECT_EQ(answers[i], expected[i])
        << "request " << i << ": tokens differ from "
        << first_difference(answers[i].tokens, expected[i].tokens) << " on, log-probabilities from "
        << first_difference(answers[i].logprobs, expected[i].logprobs);
  }
}

void under_load(const std::string& url, const std::vector<json>& requests,
                const std::vector<Answer>& expected, std::size_t tokens,
                const std::function<void()>& act) {
  std::atomic<bool> ending = false;
  Progress progress = 0;
  std::vector<std::future<std::vector<Answer>>> loops;
  for (const json& request : requests)
    loops.push_back(std::async(std::launch::async, [&] {
      std::vector<Answer> answers;
      do {
        answers.push_back(stream(url, request, &progress));
      } while (!ending && answers.back().error.empty());
      return answers;
    }));
  EXPECT_TRUE(eventually([&] { return progress >= tokens; }));
  act();
  ending = true;
  for (std::size_t i = 0; i < loops.size(); ++i) {
    const auto answers = loops[i].get();
    expect_equal(answers, std::vector<Answer>(answers.size(), expected[i]));
  }
}

}  // namespace fulgur::integration
