#include "common/actor/reactor.hpp"

#include <algorithm>

#include "common/base/log.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::actor {
namespace {

// Bounds of one pass: small enough that no source starves the others.
constexpr std::size_t kEventsPerPass = 64;
constexpr std::size_t kJobsPerPass = 256;
constexpr Nanoseconds kIdleWaitMax = 100 * kMillisecond;

}  // namespace

/// CAF module factory: hands the scheduler to the reactor that is being built.
class ReactorModule {
 public:
  static caf::actor_system_config& prepare(caf::actor_system_config& config) {
    config.module_factories.push_back([](caf::actor_system& system) -> caf::actor_system::module* {
      return new ReactorScheduler(system);
    });
    return config;
  }
};

Reactor::Reactor(transport::Transport& transport, const Clock& clock)
    : transport_(transport), clock_(clock) {
  ReactorModule::prepare(config_);
  config_.set("scheduler.max-threads", 1);
  config_.set("scheduler.max-throughput", 64);
  system_ = std::make_unique<caf::actor_system>(config_);
  system_->await_actors_before_shutdown(false);
  scheduler_ = &dynamic_cast<ReactorScheduler&>(system_->scheduler());
  scheduler_->set_wake([this] { transport_.doorbell().ring(); });
  scheduler_->clock().advance_to(clock_.now());
}

Reactor::~Reactor() {
  scheduler_->adopt_thread();
  scheduler_->set_wake(nullptr);
  scheduler_->end_actors();  // before the handles go: an actor nobody can reach ends with an error
  slots_ = {};
  link_watchers_.clear();
  system_.reset();
}

void Reactor::post(std::function<void()> work) {
  {
    const std::lock_guard lock(posted_mutex_);
    posted_.push_back(std::move(work));
  }
  transport_.doorbell().ring();
}

void Reactor::stop() {
  stopping_.store(true);
  transport_.doorbell().ring();
}

bool Reactor::run_posted() {
  std::vector<std::function<void()>> work;
  {
    const std::lock_guard lock(posted_mutex_);
    work.swap(posted_);
  }
  for (auto& item : work) item();
  return !work.empty();
}

bool Reactor::run_once() {
  bool busy = run_posted();
  busy |= transport_.poll(*this, kEventsPerPass) > 0;
  busy |= scheduler_->clock().advance_to(clock_.now()) > 0;
  busy |= scheduler_->run_jobs(kJobsPerPass) > 0;
  return busy;
}

void Reactor::run_until_idle(std::size_t limit) {
  for (std::size_t pass = 0; pass < limit && run_once(); ++pass) {
  }
}

void Reactor::run() {
  scheduler_->adopt_thread();
  while (!stopping_.load()) {
    if (run_once()) continue;
    const Nanoseconds now = clock_.now();
    const Nanoseconds due = scheduler_->clock().next_due(now + kIdleWaitMax);
    transport_.doorbell().wait(std::clamp<Nanoseconds>(due - now, 0, kIdleWaitMax));
  }
}

void Reactor::on_link_up(transport::LinkId link, const transport::Peer& peer) {
  for (const auto& watcher : link_watchers_) tell(watcher, LinkUp{link, peer});
}

void Reactor::on_link_down(transport::LinkId link, const Status& why) {
  for (const auto& watcher : link_watchers_) tell(watcher, LinkDown{link, why});
}

template <class Body>
void Reactor::deliver(transport::LinkId link, wire::Message& message, Body& body) {
  const Handle& actor = std::get<Slot<Body>>(slots_).actor;
  if (!actor) {
    unexpected_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  tell(actor, Received<Body>{link, std::move(message.sender), message.deadline_ns, message.trace,
                             std::move(body)});
}

void Reactor::on_message(transport::LinkId link, wire::Frames frames) {
  auto decoded = wire::decode(std::move(frames));
  if (!decoded.is_ok()) {
    malformed_.fetch_add(1, std::memory_order_relaxed);
    log::warn("dropped a malformed message link={} why=\"{}\"", link, decoded.status().message());
    return;
  }
  std::visit([&](auto& body) { deliver(link, *decoded, body); }, decoded->body);
}

}  // namespace fulgur::actor
