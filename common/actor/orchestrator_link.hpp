// A service's side of its conversation with the orchestrator: register on every (re)connection,
// heartbeat while connected, and obey only the newest orchestrator (fencing by generation). Plain
// class: its owner is the actor that forwards link events and timers to it.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "common/actor/messages.hpp"
#include "common/base/log.hpp"
#include "common/transport/transport.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::actor {

inline constexpr Nanoseconds kHeartbeatPeriod = 500 * kMillisecond;

class OrchestratorLink {
 public:
  /// `describe` fills a Register with the state of this moment.
  OrchestratorLink(transport::Transport& transport, std::string name,
                   std::function<wire::Register()> describe)
      : transport_(transport), name_(std::move(name)), describe_(std::move(describe)) {}

  /// Starts connecting; without an endpoint the service runs on its own.
  Status connect(const std::string& endpoint) {
    if (endpoint.empty()) return Status::ok();
    FULGUR_ASSIGN_OR_RETURN(link_, transport_.connect(endpoint, transport::Carrier::zmq));
    return Status::ok();
  }

  bool owns(transport::LinkId link) const { return link_ != 0 && link == link_; }
  bool connected() const { return connected_; }

  void on_up(const LinkUp& up) {
    if (!owns(up.link)) return;
    connected_ = true;
    register_here();
  }

  /// On every new link, and when the orchestrator says that it does not know this member.
  void register_here() {
    wire::Register registration = describe_();
    registration.orchestrator_generation = generation_;
    say(std::move(registration));
  }

  void on_down(const LinkDown& down) {
    if (!owns(down.link)) return;
    connected_ = false;
    log::warn("lost the orchestrator, serving goes on why=\"{}\"", down.why.message());
  }

  /// Sends `body` when connected; the control plane may be away at any time, so a failure is not
  /// an error of the caller.
  void say(wire::Body body) {
    if (!connected_) return;
    wire::Message message;
    message.sender = name_;
    message.body = std::move(body);
    if (auto* const beat = std::get_if<wire::Heartbeat>(&message.body))
      beat->orchestrator_generation = generation_;
    if (auto sent = transport_.send(link_, wire::encode(message)); !sent.is_ok()) {
      log::debug("not sent to the orchestrator why=\"{}\"", sent.message());
    }
  }

  /// Whether a command of this generation is to be obeyed; remembers the newest.
  bool accept_generation(std::uint64_t generation) {
    if (generation < generation_) return false;
    generation_ = generation;
    return true;
  }

  /// The newest obeyed; 0 before the first.
  std::uint64_t generation() const { return generation_; }

 private:
  transport::Transport& transport_;
  std::string name_;
  std::function<wire::Register()> describe_;
  transport::LinkId link_ = 0;
  bool connected_ = false;
  std::uint64_t generation_ = 0;
};

}  // namespace fulgur::actor
