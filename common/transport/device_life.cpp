// The life of a device link: up, messages, down, again. See docs/protocol.md, section 8.
#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/log.hpp"
#include "common/transport/device_transport.hpp"

namespace fulgur::transport {
namespace {

/// A listener waits for this many attempts of the dialer.
constexpr int kAttempts = 4;

}  // namespace

void DeviceTransport::bring_up(Link& link, DeviceCarrier carrier) {
  link.state = State::up;
  link.peer.device = carrier;
  link.backoff = options_.reconnect_first;
  schedule(link, 0);
  if (link.has_gpu())
    log::info("device link peer={} carrier={}", link.peer.name, to_string(carrier));
  events_.push_back({link.id, link.peer});
}

/// Stops what the link has on the device; its memory stays until that has happened.
void DeviceTransport::end_device(Link& link) {
  if (link.lane) {
    bytes_sent_ += link.lane->bytes_sent();
    bytes_received_ += link.lane->bytes_received();
    graveyard_.push_back(link.lane->stop());
    link.lane.reset();
  }
  graveyard_.push_back(std::exchange(link.parts, {}).stop());
  bury();
}

void DeviceTransport::on_link_up(LinkId inner, const Peer& peer) {
  auto known = by_inner_.find(inner);
  if (known == by_inner_.end()) {
    const LinkId id = next_link_++;
    links_[id].id = id;
    links_[id].inner = inner;
    known = by_inner_.emplace(inner, id).first;
  }
  Link& link = links_.at(known->second);
  link.peer = peer;
  link.candidate = 0;
  if (const auto spoiled = spoiled_.find(peer.name);
      spoiled != spoiled_.end() && spoiled->second.first != peer.incarnation) {
    spoiled_.erase(spoiled);
  }
  if (!link.has_gpu()) return bring_up(link, DeviceCarrier::none);
  link.state = State::shaking;
  if (link.dialed) return propose(link);
  schedule(link, clock_.now() + kAttempts * options_.handshake);
}

/// The link beside the device is gone; a dialed one comes up again by itself.
void DeviceTransport::on_link_down(LinkId inner, const Status& why) {
  const auto known = by_inner_.find(inner);
  if (known == by_inner_.end()) return;
  Link& link = links_.at(known->second);
  const bool was_up = link.state == State::up;
  // What has arrived whole is delivered before the end.
  if (was_up && link.lane) {
    (void)link.lane->pump([&](DeviceKind, wire::Frames frames) {
      events_.push_back({link.id, std::move(frames)});
    });
  }
  end_device(link);
  link.state = State::down;
  schedule(link, 0);
  if (was_up) events_.push_back({link.id, why});
  if (link.dialed) return;
  links_.erase(known->second);
  by_inner_.erase(known);
}

/// The device failed, or the peer breaks the rules: ends the link beside it, too. One of ours is
/// dialed anew, without the carrier that failed.
void DeviceTransport::break_link(LinkId id, const Status& why) {
  Link& link = links_.at(id);
  log::warn("device link to {} ended: {}", link.peer.name, why.message());
  if (link.state == State::up) {
    if (link.lane) {
      auto& [incarnation, carriers] = spoiled_[link.peer.name];
      incarnation = link.peer.incarnation;
      carriers.push_back(link.lane->carrier());
    }
    events_.push_back({id, why});
  }
  if (why.code() == Code::data_loss) ++malformed_;
  end_device(link);
  by_inner_.erase(link.inner);
  inner_->close(link.inner);
  link.inner = 0;
  link.state = State::down;
  if (!link.dialed) {
    links_.erase(id);
    return;
  }
  schedule(link, clock_.now() + link.backoff);
  link.backoff = std::min(2 * link.backoff, options_.reconnect_last);
}

void DeviceTransport::on_message(LinkId inner, wire::Frames frames) {
  const auto known = by_inner_.find(inner);
  if (known == by_inner_.end()) return;  // ended meanwhile
  Link& link = links_.at(known->second);
  if (!link.has_gpu()) {
    events_.push_back({link.id, std::move(frames)});
    return;
  }
  const auto header = take_header(frames);
  if (!header) return break_link(link.id, header.status());
  const bool shaking = link.state == State::shaking;
  if (header->kind == DeviceKind::propose) {
    const bool window_ok = header->window % 4096 == 0 && header->window != 0;
    if (link.dialed || !shaking || !window_ok || header->attempt <= link.attempt) {
      return break_link(link.id, {Code::data_loss, "a proposal that is not due"});
    }
    return on_propose(link, *header, frames);
  }
  if (header->attempt != link.attempt) return;  // of an attempt given up
  switch (header->kind) {
    case DeviceKind::accept:
      if (link.dialed && shaking && header->window % 4096 == 0 && header->window != 0)
        return on_accept(link, *header, frames);
      break;
    case DeviceKind::refuse:
      if (link.dialed && shaking) return on_refuse(link, frames);
      break;
    case DeviceKind::proved:
      if (shaking && !link.lane) return;  // refused meanwhile
      if (!shaking || !link.probed || link.proved) break;
      link.proved = true;
      return check_proved(link);
    default:
      return on_lane(link, *header, std::move(frames));
  }
  break_link(link.id, {Code::data_loss, "a handshake message that is not due"});
}

void DeviceTransport::on_lane(Link& link, const DeviceHeader& header, wire::Frames frames) {
  if (link.lane && (link.state == State::up || header.kind != DeviceKind::data)) {
    const Status taken = link.lane->receive(header, std::move(frames));
    if (!taken) break_link(link.id, taken);
    return;
  }
  // A listener that gave the attempt up may still hear of it.
  if (link.state == State::shaking && header.kind != DeviceKind::data) return;
  if (link.state == State::up && header.kind == DeviceKind::data && header.sequence == 0 &&
      !frames.empty()) {
    events_.push_back({link.id, std::move(frames)});
    return;
  }
  break_link(link.id, {Code::data_loss, "a message that is not due"});
}

void DeviceTransport::run_timers() {
  const Nanoseconds now = clock_.now();
  next_timer_ = std::numeric_limits<Nanoseconds>::max();
  std::vector<LinkId> due;
  for (auto& [id, link] : links_) {
    if (link.due == 0) continue;
    if (link.due <= now) {
      due.push_back(id);
    } else {
      schedule(link, link.due);
    }
  }
  for (const LinkId id : due) {
    Link& link = links_.at(id);
    schedule(link, 0);
    if (link.state == State::shaking) {
      const Status why{Code::deadline_exceeded, "the device handshake takes too long"};
      link.dialed ? give_attempt_up(link, why) : break_link(id, why);
    } else if (link.state == State::down && link.dialed && link.inner == 0) {
      const auto inner = inner_->connect(link.endpoint, link.wanted);
      if (!inner) {
        schedule(link, now + options_.reconnect_last);
        continue;
      }
      link.inner = *inner;
      by_inner_[*inner] = id;
    }
  }
}

void DeviceTransport::schedule(Link& link, Nanoseconds due) {
  link.due = due;
  if (due != 0) next_timer_ = std::min(next_timer_, due);
}

}  // namespace fulgur::transport
