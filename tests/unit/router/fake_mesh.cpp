#include "tests/unit/router/fake_mesh.hpp"

#include <gtest/gtest.h>

#include <chrono>

namespace fulgur::router::testing {
namespace {

constexpr std::string_view kScriptText =
    "Once upon a time there was a fox who lived by the river. One day the fox said to the river, "
    "\"Where do you go?\" And the river answered, \"To the sea.\"";

std::string endpoint_of(const std::string& name) { return "inproc://" + name; }

}  // namespace

FakePeer::FakePeer(transport::Hub& hub, wire::ServiceKind kind, const std::string& name,
                   std::uint64_t incarnation)
    : name_(name) {
  auto made = hub.make({kind, name, incarnation}, endpoint_of(name));
  EXPECT_TRUE(made.is_ok()) << made.status().to_string();
  transport_ = std::move(*made);
}

void FakePeer::send(wire::Body body) {
  wire::Message message;
  message.sender = name_;
  message.body = std::move(body);
  const Status sent = transport_->send(link_, wire::encode(message));
  EXPECT_TRUE(sent.is_ok()) << sent.to_string();
}

void FakePeer::on_link_up(transport::LinkId link, const transport::Peer&) { link_ = link; }

void FakePeer::on_link_down(transport::LinkId link, const Status&) {
  if (link == link_) link_ = 0;
}

void FakePeer::on_message(transport::LinkId, wire::Frames frames) {
  auto message = wire::decode(std::move(frames));
  ASSERT_TRUE(message.is_ok()) << message.status().to_string();
  std::visit(
      [this, &message](auto& body) {
        using Body = std::decay_t<decltype(body)>;
        if constexpr (std::is_same_v<Body, wire::Submit>) traces_.push_back(message->trace);
        if constexpr (kKept<Body>) heard<Body>().push_back(std::move(body));
      },
      message->body);
}

FakeMesh::FakeMesh(ServiceOptions options, std::vector<std::string> shards) {
  auto model = ServedModel::load({.directory = FULGUR_SOURCE_DIR "/models/fulgur-tiny",
                                  .served_name = {}});
  EXPECT_TRUE(model.is_ok()) << model.status().to_string();
  model_ = std::move(*model);
  script_ = *model_->tokenizer()->encode(kScriptText);
  orchestrator_ = std::make_unique<FakePeer>(hub_, wire::ServiceKind::orchestrator,
                                             "orchestrator", 1);
  auto made = hub_.make({wire::ServiceKind::router, "router-0", 1}, "");
  EXPECT_TRUE(made.is_ok());
  transport_ = std::move(*made);
  options.port = 0;
  options.orchestrator = endpoint_of("orchestrator");
  auto service = Service::start(std::move(options), model_, *transport_, clock_);
  EXPECT_TRUE(service.is_ok()) << service.status().to_string();
  service_ = std::move(*service);
  reactor_ = std::thread([this] { service_->run(); });
  wait_until([this] { return !orchestrator_->heard<wire::Register>().empty(); });
  for (const auto& name : shards) start_shard(name);
  if (!shards.empty()) publish(shards);
}

FakeMesh::~FakeMesh() {
  service_->drain(0);
  service_->stop();
  reactor_.join();
}

void FakeMesh::wait_until(const std::function<bool()>& condition) {
  constexpr Nanoseconds kLook = 2 * kMillisecond;
  const Nanoseconds give_up = clock_.now() + 20 * kSecond;
  for (;;) {
    orchestrator_->poll();
    for (const auto& [name, shard] : shards_) shard->poll();
    if (condition()) return;
    ASSERT_LT(clock_.now(), give_up) << "the router did not do what was expected";
    orchestrator_->doorbell().wait(kLook);
  }
}

void FakeMesh::start_shard(const std::string& name) {
  shards_[name] =
      std::make_unique<FakePeer>(hub_, wire::ServiceKind::attention, name, ++incarnations_);
}

void FakeMesh::publish(const std::vector<std::string>& names) {
  wire::Placement placement;
  placement.epoch = ++epoch_;
  placement.orchestrator_generation = 1;
  for (const auto& name : names) placement.shards.push_back({name, 1, endpoint_of(name), true});
  orchestrator_->send(std::move(placement));
  wait_until([&] {
    return std::ranges::all_of(names, [&](const std::string& name) {
      return shards_.count(name) == 0 || shards_[name]->connected();
    });
  });
  const auto up = static_cast<double>(
      std::ranges::count_if(names, [&](const auto& name) { return shards_.count(name) > 0; }));
  wait_until([&] { return service_->metrics().shards_up.Value() == up; });
}

wire::Submit FakeMesh::submitted(const std::string& name, std::size_t index) {
  auto& heard = shard(name).heard<wire::Submit>();
  wait_until([&] { return heard.size() > index; });
  return heard.size() > index ? heard[index] : wire::Submit{};
}

void FakeMesh::wait_for_cancel(const std::string& name, std::uint64_t request) {
  auto& heard = shard(name).heard<wire::Cancel>();
  wait_until([&] {
    return std::ranges::any_of(heard, [&](const auto& cancel) { return cancel.request == request; });
  });
}

std::string FakeMesh::script_text(std::size_t count) const {
  return model_->decode({script_.begin(), script_.begin() + static_cast<std::ptrdiff_t>(count)},
                        true);
}

void FakeMesh::generate(const std::string& name, const wire::Submit& submit, std::size_t first,
                        std::size_t count) {
  for (std::size_t i = first; i < first + count; ++i) {
    wire::TokenEvent event;
    event.request = submit.request;
    event.index = static_cast<std::uint32_t>(i);
    event.token = script_.at(i);
    if (submit.logprobs) {
      event.logprob = -0.25F;
      for (std::uint32_t k = 0; k < submit.top_logprobs; ++k) {
        event.top.push_back({k + 100, -1.0F - static_cast<float>(k)});
      }
    }
    shard(name).send(wire::Tokens{{event}});
  }
}

void FakeMesh::finish(const std::string& name, std::uint64_t request, wire::FinishReason reason,
                      Code code, const std::string& message) {
  wire::Done done;
  done.request = request;
  done.reason = reason;
  done.code = code;
  done.message = message;
  shard(name).send(done);
}

Call::Call(FakeMesh& mesh, std::string_view path, std::string_view body, std::string_view headers)
    : client_(mesh.service().port()) {
  client_.send(fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                           "Content-Length: {}\r\n{}\r\n{}",
                           body.empty() ? "GET" : "POST", path, body.size(), headers, body));
}

void Call::receive() {
  if (response_.empty()) response_ = client_.read_response();
}

int Call::status() {
  receive();
  EXPECT_GT(response_.size(), 12U) << response_;
  return response_.size() > 12 ? std::stoi(response_.substr(9, 3)) : 0;
}

std::string Call::head() {
  receive();
  return response_.substr(0, response_.find("\r\n\r\n"));
}

nlohmann::json Call::json() {
  receive();
  const std::string body = response_.substr(response_.find("\r\n\r\n") + 4);
  auto parsed = nlohmann::json::parse(body, nullptr, false);
  EXPECT_FALSE(parsed.is_discarded()) << body;
  return parsed;
}

std::string Call::next_event() {
  std::string data = client_.read_until("\n\n");
  const std::size_t at = data.find("data: ");
  EXPECT_NE(at, std::string::npos) << data;
  if (at == std::string::npos) return {};
  return data.substr(at + 6, data.size() - at - 8);
}

std::vector<std::string> Call::events() {
  std::vector<std::string> all;
  do {
    all.push_back(next_event());
  } while (all.back() != "[DONE]" && !all.back().empty());
  return all;
}

}  // namespace fulgur::router::testing
