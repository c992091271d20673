#include "common/transport/device_transport.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/log.hpp"

namespace fulgur::transport {
namespace {

constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();
constexpr Nanoseconds kShortestNap = 20 * kMicrosecond;
constexpr Nanoseconds kLongestNap = 1 * kMillisecond;
constexpr int kLastLooks = 20'000;  // 100 us each

}  // namespace

DeviceTransport::DeviceTransport(std::unique_ptr<Transport> inner, GpuApi& gpu,
                                 DeviceOptions options, const Clock& clock)
    : inner_(std::move(inner)),
      gpu_(gpu),
      options_(std::move(options)),
      clock_(clock),
      bell_(*this),
      staging_(options_.limits.queue_bytes, gpu.host_blocks()),
      next_timer_(kNever) {
  FULGUR_ASSERT(options_.window_bytes != 0 && options_.window_bytes % 4096 == 0,
                "a device window is a multiple of 4 KiB");
}

DeviceTransport::~DeviceTransport() {
  for (auto& [id, link] : links_) end_device(link);
  links_.clear();
  inner_.reset();
  for (int look = 0; look < kLastLooks && !graveyard_.empty(); ++look) {
    bury();
    if (!graveyard_.empty()) usleep(100);
  }
  if (graveyard_.empty()) return;
  log::error("the gpu does not let go of {} links: their memory is lost", graveyard_.size());
  for (DeviceRemains& remains : graveyard_) new DeviceRemains(std::move(remains));
}

Result<LinkId> DeviceTransport::connect(const std::string& endpoint, Carrier carrier) {
  FULGUR_ASSIGN_OR_RETURN(const LinkId inner, inner_->connect(endpoint, carrier));
  const LinkId id = next_link_++;
  Link& link = links_[id];
  link.id = id;
  link.inner = inner;
  link.dialed = true;
  link.endpoint = endpoint;
  link.wanted = carrier;
  link.backoff = options_.reconnect_first;
  by_inner_[inner] = id;
  return id;
}

Status DeviceTransport::send(LinkId id, wire::Frames frames) {
  FULGUR_RETURN_IF_ERROR(check_frames(frames));
  const auto found = links_.find(id);
  if (found == links_.end() || found->second.state != State::up) {
    return error(Code::unavailable, "link {} is down", id);
  }
  Link& link = found->second;
  if (link.lane) {
    progress_at_ = clock_.now();
    if (!link.lane->takes(frames)) {
      FULGUR_ASSIGN_OR_RETURN(frames, to_host(std::move(frames)));
    }
    const Status sent = link.lane->send(DeviceKind::data, std::move(frames));
    const bool refused =
        sent.code() == Code::resource_exhausted || sent.code() == Code::invalid_argument;
    if (!sent && !refused) break_link(id, sent);
    return sent;
  }
  FULGUR_ASSIGN_OR_RETURN(frames, to_host(std::move(frames)));
  if (!link.has_gpu()) return inner_->send(link.inner, std::move(frames));
  return say(link, {.kind = DeviceKind::data, .attempt = link.attempt}, std::move(frames));
}

/// Copies of tensors in host memory, for a peer that no lane leads to. Blocks for as long as the
/// copy takes.
Result<wire::Frames> DeviceTransport::to_host(wire::Frames frames) {
  for (wire::Frame& frame : frames) {
    if (!wire::is_device(frame)) continue;
    // Any host memory will do where no more can be pinned: the copy is slower.
    auto memory = staging_.take_if_any(frame.size);
    if (memory == nullptr) memory = unpinned_.take_if_any(frame.size);
    if (memory == nullptr) return error(Code::resource_exhausted, "no {} bytes", frame.size);
    FULGUR_RETURN_IF_ERROR(gpu_.download(memory.get(), frame.data, frame.size, frame.ready));
    const auto* data = memory.get();
    frame = {std::move(memory), data, frame.size};
  }
  return frames;
}

void DeviceTransport::close(LinkId id) {
  const auto found = links_.find(id);
  std::erase_if(events_, [&](const Event& event) { return event.link == id; });
  if (found == links_.end()) return;
  Link& link = found->second;
  end_device(link);
  if (link.inner != 0) {
    by_inner_.erase(link.inner);
    inner_->close(link.inner);
  }
  links_.erase(found);
}

std::size_t DeviceTransport::poll(Handler& handler, std::size_t max_events) {
  if (clock_.now() >= next_timer_) run_timers();
  if (events_.size() < max_events) inner_->poll(*this, max_events - events_.size());
  std::vector<LinkId> with_lane;
  for (const auto& [id, link] : links_) {
    if (link.lane) with_lane.push_back(id);
  }
  for (const LinkId id : with_lane) {
    if (const auto found = links_.find(id); found != links_.end()) pump(found->second);
  }
  if (!graveyard_.empty()) bury();
  std::size_t delivered = 0;
  while (delivered < max_events && !events_.empty()) {
    Event event = std::move(events_.front());
    events_.pop_front();
    deliver(std::move(event), handler);
    ++delivered;
  }
  return delivered;
}

void DeviceTransport::pump(Link& link) {
  const LinkId id = link.id;
  const std::uint64_t attempt = link.attempt;
  const std::uint64_t before = link.lane->progress();
  std::vector<wire::Frames> probes;
  const Status status = link.lane->pump([&](DeviceKind kind, wire::Frames frames) {
    if (kind == DeviceKind::probe) {
      probes.push_back(std::move(frames));
    } else {
      events_.push_back({link.id, std::move(frames)});
    }
  });
  if (link.lane->progress() != before) progress_at_ = clock_.now();
  if (!status) {
    if (link.state == State::up) return break_link(link.id, status);
    return give_attempt_up(link, status);
  }
  if (link.state == State::shaking && !link.probed) prove(link);
  for (const wire::Frames& probe : probes) {
    const auto found = links_.find(id);
    if (found == links_.end() || found->second.attempt != attempt || !found->second.lane) return;
    on_probe(found->second, probe);
  }
}

/// Frees what ended links left, as soon as the device is done with it.
void DeviceTransport::bury() {
  std::erase_if(graveyard_, [](const DeviceRemains& remains) { return remains.stopped(); });
}

bool DeviceTransport::device_busy() const {
  if (!graveyard_.empty()) return true;
  return std::ranges::any_of(links_, [](const auto& entry) {
    const Link& link = entry.second;
    return link.lane && (link.state == State::shaking || link.lane->busy());
  });
}

Nanoseconds DeviceTransport::until_timer() const {
  return next_timer_ == kNever ? kNever : std::max<Nanoseconds>(0, next_timer_ - clock_.now());
}

void DeviceTransport::Bell::wait(Nanoseconds timeout) {
  timeout = std::min(timeout, owner_.until_timer());
  if (!owner_.events_.empty()) return;
  if (owner_.device_busy()) {
    const Nanoseconds idle = owner_.clock_.now() - owner_.progress_at_;
    if (idle < owner_.options_.spin) {
      sched_yield();  // whoever starts the transfer may need this core
      return;
    }
    timeout = std::min(timeout, std::clamp(idle / 8, kShortestNap, kLongestNap));
  }
  owner_.inner_->doorbell().wait(timeout);
}

Stats DeviceTransport::stats() const {
  Stats stats = inner_->stats();
  stats.malformed += malformed_;
  stats.bytes_sent += bytes_sent_;
  stats.bytes_received += bytes_received_;
  for (const auto& [id, link] : links_) {
    if (!link.lane) continue;
    stats.bytes_sent += link.lane->bytes_sent();
    stats.bytes_received += link.lane->bytes_received();
  }
  return stats;
}

DeviceCredits DeviceTransport::credits(LinkId id) const {
  const auto found = links_.find(id);
  return found == links_.end() || !found->second.lane ? DeviceCredits{}
                                                      : found->second.lane->credits();
}

std::uint64_t DeviceTransport::bytes_outstanding() const {
  std::uint64_t bytes = 0;
  for (const auto& [id, link] : links_) bytes += link.lane ? link.lane->bytes_outstanding() : 0;
  return bytes;
}

}  // namespace fulgur::transport
