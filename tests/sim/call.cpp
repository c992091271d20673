#include "tests/sim/call.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "common/http/responder.hpp"

namespace fulgur::sim {
namespace {

using Json = nlohmann::ordered_json;

/// The body of a chunked response; as much of it as there is.
std::string dechunk(std::string_view bytes) {
  std::string body;
  while (true) {
    const std::size_t line = bytes.find("\r\n");
    if (line == std::string_view::npos) return body;
    const std::size_t size = std::stoul(std::string(bytes.substr(0, line)), nullptr, 16);
    if (size == 0 || bytes.size() < line + 2 + size) return body;
    body += bytes.substr(line + 2, size);
    bytes.remove_prefix(std::min(bytes.size(), line + 2 + size + 2));
  }
}

}  // namespace

std::string_view to_string(Ending ending) {
  switch (ending) {
    case Ending::open: return "open";
    case Ending::complete: return "complete";
    case Ending::refused: return "refused";
    case Ending::failed: return "failed";
    case Ending::hung_up: return "hung up";
    case Ending::router_died: return "router died";
  }
  return "unknown";
}

Call::Call(World& world, const RequestSpec& spec, std::uint64_t number)
    : world_(world), spec_(spec), number_(number), got_(spec.expected.size()) {}

void Call::send(RouterProcess& router, Nanoseconds timeout) {
  started_ = world_.now();
  deadline_ = started_ + timeout;
  router_ = router.name();
  if (!router.ready()) return refuse(503, "no attention shard is ready");
  auto ticket = router.admission().enter(spec_.request->choices());
  if (!ticket) return refuse(429, "the server runs as many sequences as it may");
  admitted_ = true;
  reactor_ = &router.reactor();
  static const auto options = std::make_shared<const http::ServerOptions>();
  static const auto draining = std::make_shared<const std::atomic<bool>>(false);
  http::ExchangeContext context;
  context.options = options;
  context.draining = draining;
  context.post = [this, self = weak_from_this()](std::function<void()> work) {
    if (self.expired() || !open()) return false;
    world_.after(0, std::move(work));
    return true;
  };
  context.wake = [self = weak_from_this()] {
    if (const auto call = self.lock()) call->read();
  };
  exchange_ = std::make_shared<http::Exchange>(std::move(context));
  const Nanoseconds now = router.clock().now();
  router.start_session(std::make_shared<router::SessionInput>(router::SessionInput{
      .request = spec_.request,
      .model = SimModel::instance().served(),
      .prompts = {spec_.prompt},
      .responder = http::Responder(exchange_),
      .trace = nullptr,
      .ticket = std::move(*ticket),
      .id = fmt::format("cmpl-{}", number_),
      .seed = spec_.seed,
      .created = 0,
      .arrived = now,
      .deadline = now + timeout}));
  world_.record(number_, [&] { return fmt::format("request {} to {}", number_, router_); });
}

void Call::refuse(int status, std::string message) {
  status_ = status;
  message_ = std::move(message);
  finish(Ending::refused);
}

void Call::hang_up() {
  if (!open()) return;
  compare(false);
  exchange_->disconnect();
  reactor_->transport().doorbell().ring();
  finish(Ending::hung_up);
}

void Call::router_died() {
  if (!open()) return;
  compare(false);
  finish(Ending::router_died);
}

void Call::read() {
  if (!open()) return;
  http::Exchange::Output output = exchange_->take();
  exchange_->sent();
  bytes_ += output.bytes;
  if (!output.last) return;
  if (output.broken) complain("the connection broke inside the answer");
  parse();
  finish(status_ == 200 ? Ending::complete : done_ ? Ending::failed : Ending::refused);
}

void Call::finish(Ending ending) {
  ending_ = ending;
  ended_ = world_.now();
  if (exchange_) exchange_->close();  // forgets the session
  exchange_.reset();
  reactor_ = nullptr;
  world_.record(number_ ^ (static_cast<std::uint64_t>(ending) << 32), [&] {
    return fmt::format("request {} {} {} {}", number_, to_string(ending), status_, message_);
  });
}

void Call::parse() {
  const std::size_t head = bytes_.find("\r\n\r\n");
  if (head == std::string::npos || bytes_.size() < 12) return complain("no response head");
  status_ = std::stoi(bytes_.substr(9, 3));
  const std::string body = bytes_.substr(head + 4);
  if (status_ == 200 && spec_.request->stream) {
    parse_stream(dechunk(body));
    if (!done_) complain("the stream has no [DONE]");
  } else {
    const Json answer = Json::parse(body, nullptr, false);
    if (answer.is_discarded()) return complain("the answer is no JSON");
    if (answer.contains("error")) return take_error(answer["error"], status_);
    for (const Json& choice : answer["choices"]) take_choice(choice);
  }
  compare(status_ == 200);
}

void Call::parse_stream(const std::string& body) {
  for (std::size_t at = 0; at < body.size();) {
    const std::size_t end = std::min(body.find("\n\n", at), body.size());
    parse_event(body.substr(at, end - at));
    at = end + 2;
  }
}

void Call::parse_event(const std::string& event) {
  if (!event.starts_with("data: ")) return complain("an event without data");
  if (done_) return complain("an event after [DONE]");
  const std::string data = event.substr(6);
  if (data == "[DONE]") {
    done_ = true;
    return;
  }
  if (status_ != 200) return complain("an event after the error");
  const Json chunk = Json::parse(data, nullptr, false);
  if (chunk.is_discarded()) return complain("an event is no JSON");
  if (chunk.contains("error")) {
    const Json& error = chunk["error"];
    const bool late = error.value("code", Json()) == "timeout";
    return take_error(error, late ? 504 : 503);
  }
  for (const Json& choice : chunk["choices"]) take_choice(choice);
}

void Call::take_error(const Json& error, int status) {
  status_ = status;
  message_ = error.value("message", "");
  if (error.value("code", Json()) == "internal_error") status_ = 500;
}

void Call::take_choice(const Json& choice) {
  const std::size_t index = choice.value("index", std::size_t{999});
  if (index >= got_.size()) return complain("a choice nobody asked for");
  Stream& stream = got_[index];
  if (!stream.finish_reason.empty()) complain("a choice goes on after its end");
  for (const Json& id : choice["token_ids"]) stream.tokens.push_back(id);
  if (choice["logprobs"].is_object()) {
    for (const Json& value : choice["logprobs"]["token_logprobs"]) {
      stream.logprobs.push_back(value.get<float>());
    }
  }
  if (choice["finish_reason"].is_string()) stream.finish_reason = choice["finish_reason"];
}

/// Whole answers must be the yardstick's; interrupted ones must begin like it.
void Call::compare(bool whole) {
  if (!whole && bytes_.find("\r\n\r\n") != std::string::npos && got_[0].tokens.empty() &&
      spec_.request->stream && status_ == 0) {
    status_ = 200;
    parse_stream(dechunk(bytes_.substr(bytes_.find("\r\n\r\n") + 4)));
  }
  for (std::size_t n = 0; n < got_.size(); ++n) {
    const Stream& want = spec_.expected[n];
    const Stream& got = got_[n];
    const auto begins = [](const auto& list, const auto& with) {
      return with.size() <= list.size() && std::equal(with.begin(), with.end(), list.begin());
    };
    const bool same = whole ? got == want
                            : begins(want.tokens, got.tokens) && begins(want.logprobs, got.logprobs);
    if (same) continue;
    complain(fmt::format("choice {} has tokens [{}] ({}), must have [{}] ({})", n,
                         fmt::join(got.tokens, " "), got.finish_reason,
                         fmt::join(want.tokens, " "), want.finish_reason));
  }
}

std::size_t Call::tokens() const {
  std::size_t count = 0;
  for (const Stream& stream : got_) count += stream.tokens.size();
  return count;
}

void Call::complain(std::string what) {
  if (wrong_.empty()) wrong_ = std::move(what);
}

}  // namespace fulgur::sim
