#include "services/router/http_api.hpp"

#include <algorithm>
#include <utility>

#include "services/router/playground_page.hpp"

namespace fulgur::router {
namespace {

constexpr std::string_view kJson = "application/json";
constexpr std::size_t kTokensMax = 4U << 20;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Compares in time that depends on the lengths only.
bool equal_secret(std::string_view given, std::string_view expected) {
  unsigned different = given.size() == expected.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size() && !expected.empty(); ++i) {
    different |= static_cast<unsigned char>(given[i] ^ expected[i % expected.size()]);
  }
  return different == 0;
}

Json model_json(const ServedModel& model) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", model.created()},
          {"owned_by", "fulgur"},
          {"max_model_len", model.limits().context_max},
          {"vocab_size", model.limits().vocab}};
}

ApiError too_long(const ServedModel& model, std::size_t prompt, std::size_t completion,
                  bool chat) {
  const std::string param = chat ? "messages" : "prompt";
  return bad_field(param, fmt::format("This model's maximum context length is {} tokens. However, "
                                      "you requested {} tokens ({} in the {}, {} in the "
                                      "completion).", model.limits().context_max,
                                      prompt + completion, prompt, param, completion),
                   "context_length_exceeded");
}

}  // namespace

http::Readiness readiness_of(const HttpApiDeps& deps) {
  if (deps.ready->load()) return {true, "ok"};
  return {false, "no attention shard is ready"};
}

void HttpApi::add(http::Server& server, std::string_view method, std::string_view path,
                  Endpoint endpoint, std::string_view name) {
  server.handle(
      method, path,
      [this, endpoint, name](const http::Request& request, const http::Responder& responder) {
        if (!authorized(request)) return refuse(name, responder, bad_api_key());
        (this->*endpoint)(request, responder);
      },
      http::RunOn::worker);
}

void HttpApi::add_routes(http::Server& server) {
  add(server, "GET", "/v1/models", &HttpApi::list_models, "models");
  add(server, "GET", "/v1/models/*", &HttpApi::get_model, "models");
  add(server, "POST", "/v1/completions", &HttpApi::completions, "completions");
  add(server, "POST", "/v1/chat/completions", &HttpApi::chat_completions, "chat");
  add(server, "POST", "/tokenize", &HttpApi::tokenize, "tokenize");
  add(server, "POST", "/detokenize", &HttpApi::detokenize, "detokenize");
  server.handle("GET", "/", [](const http::Request&, const http::Responder& responder) {
    responder.respond(200, "text/html; charset=utf-8", std::string(kPlaygroundFiles.front().bytes),
                      {{"Cache-Control", "no-cache"},
                       {"X-Content-Type-Options", "nosniff"},
                       {"Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; "
                                                   "style-src 'unsafe-inline'; img-src data:; "
                                                   "connect-src 'self'"}});
  });
  http::add_admin_routes(server, {.metrics = [this] { return deps_.metrics->text(); },
                                  .readiness = [this] { return readiness_of(deps_); }});
}

bool HttpApi::authorized(const http::Request& request) const {
  if (deps_.api_key.empty()) return true;
  std::string_view given = request.header("Authorization");
  constexpr std::string_view scheme = "Bearer ";
  if (!given.starts_with(scheme)) return false;
  given.remove_prefix(scheme.size());
  return equal_secret(given, deps_.api_key);
}

void HttpApi::refuse(std::string_view api, const http::Responder& responder,
                     const ApiError& error) {
  deps_.metrics->count_request(api, error.status);
  respond_error(responder, error);
}

void HttpApi::answer(std::string_view api, const http::Responder& responder, const Json& body) {
  deps_.metrics->count_request(api, 200);
  responder.respond(200, kJson, dump(body));
}

void HttpApi::list_models(const http::Request&, const http::Responder& responder) {
  answer("models", responder,
         {{"object", "list"}, {"data", Json::array({model_json(*deps_.model)})}});
}

void HttpApi::get_model(const http::Request& request, const http::Responder& responder) {
  const std::string name = request.path.substr(std::string_view("/v1/models/").size());
  if (name != deps_.model->name()) return refuse("models", responder, unknown_model(name));
  answer("models", responder, model_json(*deps_.model));
}

void HttpApi::completions(const http::Request& request, const http::Responder& responder) {
  generate(request, false, responder);
}

void HttpApi::chat_completions(const http::Request& request, const http::Responder& responder) {
  generate(request, true, responder);
}

void HttpApi::generate(const http::Request& request, bool chat, const http::Responder& responder) {
  std::unique_ptr<RequestTrace> trace;
  if (deps_.tracing.on()) {
    trace = deps_.tracing.begin(request.header("traceparent"), request.path, deps_.clock->now());
  }
  auto input = prepare(request, chat, trace.get());
  if (!input.is_ok()) {
    if (trace) trace->end(input.error().status, 0, 0, deps_.clock->now());
    return refuse(chat ? "chat" : "completions", responder, input.error());
  }
  (*input)->trace = std::move(trace);
  (*input)->responder = responder;
  deps_.start_session(std::move(*input));
}

ApiResult<std::shared_ptr<SessionInput>> HttpApi::prepare(const http::Request& http_request,
                                                          bool chat, RequestTrace* trace) {
  auto body = parse_body(http_request.body);
  if (!body.is_ok()) return body.error();
  auto parsed = chat ? parse_chat(*body, deps_.model->limits())
                     : parse_completion(*body, deps_.model->limits());
  if (!parsed.is_ok()) return parsed.error();
  GenerationRequest& request = *parsed;
  if (trace != nullptr) trace->set_request(request, deps_.model->name());
  if (!deps_.model->answers_to(request.model)) return unknown_model(request.model);
  if (!request.stop.empty() && !deps_.model->tokenizer()) {
    return bad_field("stop", fmt::format("model {} has no tokenizer: use 'stop_token_ids'",
                                         deps_.model->name()), "no_tokenizer");
  }
  if (!deps_.ready->load()) return unavailable("no attention shard is ready");
  if (const std::size_t places = deps_.admission->places_max(); request.choices() > places) {
    const std::string param = request.prompts.size() > 1 ? "prompt" : "n";  // waiting would not help
    return bad_field(param, fmt::format("'{}' asks for {} sequences; this server runs at most {} at "
                                        "a time", param, request.choices(), places),
                     "invalid_value");
  }
  auto ticket = deps_.admission->enter(request.choices());
  if (!ticket) {
    return busy(fmt::format("the server runs as many sequences as it may ({})",
                            deps_.admission->places_max()));
  }
  const Nanoseconds now = deps_.clock->now();
  auto prompts = encode(request);
  if (trace != nullptr) trace->add_span("router.tokenize", now, deps_.clock->now());
  if (!prompts.is_ok()) return prompts.error();
  const std::string id = fmt::format("{}-{:016x}{:08x}", request.chat ? "chatcmpl" : "cmpl",
                                     random(), random() >> 32);
  const std::uint64_t seed = request.seed.value_or(random());
  return std::make_shared<SessionInput>(
      SessionInput{.request = std::make_shared<const GenerationRequest>(std::move(request)),
                   .model = deps_.model,
                   .prompts = std::move(*prompts),
                   .responder = {},
                   .trace = nullptr,
                   .ticket = std::move(*ticket),
                   .id = id,
                   .seed = seed,
                   .created = deps_.clock->wall_now() / kSecond,
                   .arrived = now,
                   .deadline = now + deps_.request_timeout});
}

ApiResult<std::vector<std::shared_ptr<const TokenIds>>> HttpApi::encode(
    const GenerationRequest& request) {
  std::vector<std::shared_ptr<const TokenIds>> prompts;
  const auto keep = [&](ApiResult<TokenIds> ids) -> std::optional<ApiError> {
    if (!ids.is_ok()) return ids.error();
    const std::size_t completion =
        request.max_tokens.value_or(std::max<std::uint32_t>(1, request.min_tokens));
    if (ids->size() + completion > deps_.model->limits().context_max) {
      return too_long(*deps_.model, ids->size(), completion, request.chat);
    }
    prompts.push_back(std::make_shared<const TokenIds>(std::move(*ids)));
    return {};
  };
  if (request.chat) {
    const auto failed = keep(deps_.model->encode_chat(request.messages, request.tools,
                                                      request.add_generation_prompt));
    if (failed) return *failed;
  }
  for (std::size_t i = 0; i < request.prompts.size(); ++i) {
    const std::string param = request.prompts.size() == 1 ? "prompt" : fmt::format("prompt[{}]", i);
    const auto failed =
        keep(deps_.model->encode(request.prompts[i], request.add_special_tokens, param));
    if (failed) return *failed;
  }
  return prompts;
}

void HttpApi::tokenize(const http::Request& request, const http::Responder& responder) {
  auto body = parse_body(request.body);
  if (!body.is_ok()) return refuse("tokenize", responder, body.error());
  FieldReader fields(*body);
  const std::string model = fields.string("model").value_or("");
  const bool add_special = fields.boolean("add_special_tokens").value_or(true);
  const bool add_prompt = fields.boolean("add_generation_prompt").value_or(true);
  const bool with_texts = fields.boolean("return_token_strs").value_or(false);
  const auto prompt = fields.string("prompt");
  const Json* messages = fields.find("messages");
  const Json tools = read_tools(fields);
  if (!prompt && messages == nullptr) {
    fields.fail("prompt", "Missing required parameter: 'prompt' or 'messages'",
                "missing_required_parameter");
  }
  if (!fields.ok()) return refuse("tokenize", responder, fields.error());
  if (!deps_.model->answers_to(model)) return refuse("tokenize", responder, unknown_model(model));
  ApiResult<TokenIds> ids = TokenIds{};
  if (prompt) {
    if (!prompt->empty()) ids = deps_.model->encode(*prompt, add_special, "prompt");
  } else {
    auto normal = normalize_messages(*messages);
    if (!normal.is_ok()) return refuse("tokenize", responder, normal.error());
    ids = deps_.model->encode_chat(*normal, tools, add_prompt);
  }
  if (!ids.is_ok()) return refuse("tokenize", responder, ids.error());
  Json tokens = {{"count", ids->size()},
                 {"max_model_len", deps_.model->limits().context_max},
                 {"tokens", *ids}};
  if (with_texts) {
    tokens["token_strs"] = Json::array();
    for (const auto id : *ids) tokens["token_strs"].push_back(deps_.model->token_text(id));
  }
  answer("tokenize", responder, tokens);
}

void HttpApi::detokenize(const http::Request& request, const http::Responder& responder) {
  auto body = parse_body(request.body);
  if (!body.is_ok()) return refuse("detokenize", responder, body.error());
  FieldReader fields(*body);
  const std::string model = fields.string("model").value_or("");
  auto ids = fields.token_ids("tokens", deps_.model->limits().vocab, kTokensMax);
  if (fields.ok() && !ids) {
    fields.fail("tokens", "Missing required parameter: 'tokens'", "missing_required_parameter");
  }
  if (!fields.ok()) return refuse("detokenize", responder, fields.error());
  if (!deps_.model->answers_to(model)) return refuse("detokenize", responder, unknown_model(model));
  if (!deps_.model->tokenizer()) {
    return refuse("detokenize", responder,
                  bad_field("tokens", fmt::format("model {} has no tokenizer", deps_.model->name()),
                            "no_tokenizer"));
  }
  answer("detokenize", responder, {{"prompt", deps_.model->decode(*ids, false)}});
}

}  // namespace fulgur::router
