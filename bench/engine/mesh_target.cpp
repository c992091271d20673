#include "bench/engine/mesh_target.hpp"

#include <unistd.h>

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

Result<std::unique_ptr<MeshTarget>> MeshTarget::connect(const std::string& endpoint,
                                                        const Clock& clock) {
  std::unique_ptr<MeshTarget> mesh(new MeshTarget(clock));
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
                          mesh->transport_->connect(endpoint, transport::Carrier::automatic));
  const Nanoseconds give_up = clock.now() + 10 * kSecond;
  while (!mesh->up_) {
    if (clock.now() > give_up) return error(Code::unavailable, "no answer from {}", endpoint);
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
