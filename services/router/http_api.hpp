// The router's HTTP surface: the OpenAI API, tokenisation, the playground, health and metrics.
// Requests are checked, admitted and tokenised here, on the HTTP server's worker threads; what
// passes is handed to the reactor as a session.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.hpp"
#include "common/base/rng.hpp"
#include "common/http/admin_routes.hpp"
#include "common/http/server.hpp"
#include "services/router/admission.hpp"
#include "services/router/request_trace.hpp"
#include "services/router/router_metrics.hpp"
#include "services/router/served_model.hpp"
#include "services/router/session.hpp"

namespace fulgur::router {

struct HttpApiDeps {
  std::shared_ptr<const ServedModel> model;
  const Clock* clock = nullptr;
  RouterMetrics* metrics = nullptr;
  Admission* admission = nullptr;
  const std::atomic<bool>* ready = nullptr;      ///< some shard takes sequences
  std::string api_key;                           ///< empty: none asked for
  RequestTracing tracing{nullptr, 0};
  Nanoseconds request_timeout = 600 * kSecond;
  std::uint64_t seed = 0;                        ///< of ids and of requests without a seed
  /// Starts a session; called on worker threads.
  std::function<void(std::shared_ptr<SessionInput>)> start_session;
};

class HttpApi {
 public:
  explicit HttpApi(HttpApiDeps deps) : deps_(std::move(deps)) {}

  /// The API outlives the server.
  void add_routes(http::Server& server);

 private:
  using Endpoint = void (HttpApi::*)(const http::Request&, const http::Responder&);
  void add(http::Server& server, std::string_view method, std::string_view path, Endpoint endpoint,
           std::string_view name);
  bool authorized(const http::Request& request) const;

  void list_models(const http::Request& request, const http::Responder& responder);
  void get_model(const http::Request& request, const http::Responder& responder);
  void completions(const http::Request& request, const http::Responder& responder);
  void chat_completions(const http::Request& request, const http::Responder& responder);
  void tokenize(const http::Request& request, const http::Responder& responder);
  void detokenize(const http::Request& request, const http::Responder& responder);

  void generate(const http::Request& request, bool chat, const http::Responder& responder);
  ApiResult<std::shared_ptr<SessionInput>> prepare(const http::Request& request, bool chat,
                                                   RequestTrace* trace);
  ApiResult<std::vector<std::shared_ptr<const TokenIds>>> encode(const GenerationRequest& request);
  void refuse(std::string_view api, const http::Responder& responder, const ApiError& error);
  void answer(std::string_view api, const http::Responder& responder, const Json& body);
  std::uint64_t random() { return random_bits(deps_.seed, drawn_.fetch_add(1)); }

  HttpApiDeps deps_;
  std::atomic<std::uint64_t> drawn_{0};
};

/// Readiness as /readyz reports it.
http::Readiness readiness_of(const HttpApiDeps& deps);

}  // namespace fulgur::router
