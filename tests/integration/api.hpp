// What a client sees of the API: completions asked for one by one or all at once, streamed or not,
// reduced to what must be equal between any two meshes that serve the same model.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

namespace fulgur::integration {

/// One choice of a completion. `error` is empty for a request that ended as it should.
struct Answer {
  std::vector<std::uint32_t> tokens;
  std::vector<double> logprobs;  ///< exactly as in the JSON text
  nlohmann::json top_logprobs = nlohmann::json::array();
  std::string text;
  std::string finish_reason;
  std::string error;
  friend bool operator==(const Answer&, const Answer&) = default;
};
std::ostream& operator<<(std::ostream& out, const Answer& answer);

/// Tokens that streams have received so far, all together; counts across threads.
using Progress = std::atomic<std::size_t>;

/// Bodies for /v1/completions: prompts of various lengths, greedy and seeded sampling in turn, with
/// log-probabilities and token ids, `tokens` long.
std::vector<nlohmann::json> mixed_requests(std::size_t count, std::uint32_t tokens);

/// `headers` are lines, sent as they are.
using Headers = std::vector<std::string>;

Answer complete(const std::string& url, const nlohmann::json& request, const Headers& headers = {});
Answer stream(const std::string& url, nlohmann::json request, Progress* progress = nullptr,
              const Headers& headers = {});
/// Calls back with the number of tokens of every event, from the calling thread.
Answer stream(const std::string& url, nlohmann::json request,
              const std::function<void(std::size_t tokens)>& on_tokens,
              const Headers& headers = {});

/// All after one another, not streamed.
std::vector<Answer> one_by_one(const std::string& url, const std::vector<nlohmann::json>& requests);
/// All at once, one thread each.
std::vector<Answer> at_once(const std::string& url, const std::vector<nlohmann::json>& requests,
                            bool streamed, Progress* progress = nullptr);

/// Fails the test where the answers differ or one failed, naming the first difference of each.
void expect_equal(const std::vector<Answer>& answers, const std::vector<Answer>& expected);

/// Streams every request again and again, one thread each, and runs `act` among them once `tokens`
/// tokens have come. However long `act` takes there is traffic, and every answer must be the
/// expected.
void under_load(const std::string& url, const std::vector<nlohmann::json>& requests,
                const std::vector<Answer>& expected, std::size_t tokens,
                const std::function<void()>& act);

}  // namespace fulgur::integration
