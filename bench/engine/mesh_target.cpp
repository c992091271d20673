#include "bench/engine/mesh_target.hpp"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "cli/http_client.hpp"
#include "cli/run_dir.hpp"
#include "common/transport/make_transport.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::bench {

/// Counts tokens and notes endings.
class MeshTarget::Client {
 public:
  Client(actor::Self&, MeshTarget* owner) : owner_(*owner) {}
  caf::behavior make_behavior() {
    return {
        [this](const actor::Received<wire::Tokens>& received) {
          for (const auto& event : received.body.events) ++owner_.requests_[event.request].tokens;
        },
        [this](const actor::Received<wire::Done>& received) {
          auto& progress = owner_.requests_[received.body.request];
          progress.done = true;
          progress.end = received.body;
        },
        [this](const actor::LinkUp&) { owner_.up_ = true; },
        [this](const actor::LinkDown&) { owner_.up_ = false; },
    };
  }

 private:
  MeshTarget& owner_;
};

namespace {

/// Value of a counter without labels in Prometheus' text format; 0 when it is not there.
double counter_of(const std::string& text, const std::string& name) {
  const std::size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? 0 : std::strtod(text.c_str() + at + name.size() + 2, nullptr);
}

}  // namespace

Result<ShardAddress> find_shard(const std::string& mesh) {
  if (!std::ranges::all_of(mesh, [](unsigned char c) { return std::isdigit(c) != 0; }))
    return ShardAddress{mesh, {}};
  const auto port = static_cast<std::uint16_t>(std::strtoul(mesh.c_str(), nullptr, 10));
  FULGUR_ASSIGN_OR_RETURN(const cli::MeshRecord record, cli::RunDir::of(port).read());
  cli::HttpClient orchestrator("http://" + record.orchestrator_admin);
  FULGUR_ASSIGN_OR_RETURN(const auto answer, orchestrator.get("/v1/mesh", 5 * kSecond));
  const auto view = nlohmann::json::parse(answer.body, nullptr, false);
  if (view.is_object())
    for (const auto& service : view.value("services", nlohmann::json::array()))
      if (service.value("kind", "") == "attention" && service.value("state", "") == "alive")
        return ShardAddress{service.value("endpoint", ""), service.value("admin", "")};
  return error(Code::unavailable, "the mesh on port {} has no attention shard", port);
}

std::optional<WeightReads> MeshTarget::weight_reads() const {
  constexpr useconds_t kRefreshPeriod_us = 700'000;  // a shard brings its metrics up to date twice a second
  constexpr int kAttempts = 8;
  if (admin_.empty()) return {};
  cli::HttpClient shard("http://" + admin_);
  WeightReads last{-1, -1};
  for (int attempt = 0; attempt < kAttempts; ++attempt, usleep(kRefreshPeriod_us)) {
    const auto answer = shard.get("/metrics", 5 * kSecond);
    if (!answer.is_ok()) return {};
    const WeightReads now{counter_of(answer->body, "fulgur_dispatch_expert_groups_total"),
                          counter_of(answer->body, "fulgur_micro_batches_total")};
    if (now == last) return now;
    last = now;
  }
  return {};
}

Result<std::unique_ptr<MeshTarget>> MeshTarget::connect(const ShardAddress& shard,
                                                        const Clock& clock) {
  std::unique_ptr<MeshTarget> mesh(new MeshTarget(clock, shard.admin));
  FULGUR_ASSIGN_OR_RETURN(
      mesh->transport_,
      transport::make_transport({wire::ServiceKind::router, fmt::format("bench-{}", getpid()),
                                 static_cast<std::uint64_t>(clock.wall_now())}, {}));
  mesh->reactor_ = std::make_unique<actor::Reactor>(*mesh->transport_, clock);
  const auto client = mesh->reactor_->spawn<Client>(mesh.get());
  mesh->reactor_->subscribe<wire::Tokens>(client);
  mesh->reactor_->subscribe<wire::Done>(client);
  mesh->reactor_->subscribe_links(client);
  FULGUR_ASSIGN_OR_RETURN(mesh->link_,
                          mesh->transport_->connect(shard.endpoint, transport::Carrier::automatic));
  const Nanoseconds give_up = clock.now() + 10 * kSecond;
  while (!mesh->up_) {
    if (clock.now() > give_up) return error(Code::unavailable, "no answer from {}", shard.endpoint);
    if (!mesh->reactor_->run_once()) mesh->transport_->doorbell().wait(10 * kMillisecond);
  }
  return mesh;
}

Target MeshTarget::target() {
  Target target;
  target.submit = [this](wire::Submit submit) {
    submit.request = next_++;
    const std::uint64_t request = submit.request;
    requests_[request] = {};
    wire::Message message;
    message.sender = "bench";
    message.body = std::move(submit);
    const Status sent = transport_->send(link_, wire::encode(message));
    FULGUR_ASSERT(sent.is_ok(), sent.to_string());
    return request;
  };
  target.tokens = [this](std::uint64_t request) { return requests_.at(request).tokens; };
  target.finished = [this](std::uint64_t request) {
    const Progress& progress = requests_.at(request);
    FULGUR_ASSERT(!progress.done || progress.end.code == Code::ok, progress.end.message);
    return progress.done;
  };
  target.wait = [this](const std::function<bool()>& done) {
    while (!done()) {
      FULGUR_ASSERT(up_, "the shard is gone");
      if (!reactor_->run_once()) transport_->doorbell().wait(kMillisecond);
    }
  };
  return target;
}

}  // namespace fulgur::bench
