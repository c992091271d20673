#include "common/actor/reactor_scheduler.hpp"

#include "common/actor/caf_compat.hpp"
#include "common/base/assert.hpp"

namespace fulgur::actor {

namespace detail {

void enroll(caf::actor_system& system, caf::event_based_actor* actor) {
  dynamic_cast<ReactorScheduler&>(system.scheduler()).enroll(actor);
}

void dismiss(caf::actor_system& system, caf::event_based_actor* actor) {
  dynamic_cast<ReactorScheduler&>(system.scheduler()).dismiss(actor);
}

}  // namespace detail

/// The execution unit actors see while they run.
class ReactorScheduler::Unit final : public caf::execution_unit {
 public:
  Unit(caf::actor_system& system, ReactorScheduler& parent)
      : caf::execution_unit(&system), parent_(parent) {}
  void exec_later(caf::resumable* job) override { parent_.local_.push_back(job); }

 private:
  ReactorScheduler& parent_;
};

std::size_t ReactorClock::advance_to(Nanoseconds now) {
  const time_point target{std::chrono::duration_cast<duration_type>(std::chrono::nanoseconds(now))};
  if (target <= current_time) return 0;
  return advance_time(target - current_time);
}

Nanoseconds ReactorClock::next_due(Nanoseconds otherwise) const {
  if (schedule().empty()) return otherwise;
  return std::chrono::nanoseconds(schedule().begin()->first.time_since_epoch()).count();
}

ReactorScheduler::ReactorScheduler(caf::actor_system& system)
    : abstract_coordinator(system), owner_(std::this_thread::get_id()) {}

ReactorScheduler::~ReactorScheduler() = default;

void ReactorScheduler::start() {
  unit_ = std::make_unique<Unit>(system(), *this);
  abstract_coordinator::start();
}

void ReactorScheduler::stop() {
  // The base class would block in a scoped actor for its printer, which only this thread can run.
  for (auto& actor : utility_actors_) caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  clock_.cancel_all();
  while (run_jobs(1024) > 0) {
  }
}

void ReactorScheduler::end_actors() {
  clock_.cancel_all();
  run_jobs(local_.size());  // whoever was just spawned comes to life and enrolls
  // Again for whoever is started while the others end.
  for (int round = 0; round < 8 && !actors_.empty(); ++round) {
    std::vector<caf::actor> alive;
    for (auto* actor : actors_) alive.emplace_back(actor);
    for (const auto& actor : alive) caf::anon_send_exit(actor, caf::exit_reason::kill);
    while (run_jobs(1024) > 0) {
    }
  }
}

void ReactorScheduler::enqueue(caf::resumable* job) {
  if (std::this_thread::get_id() == owner_) {
    local_.push_back(job);
    return;
  }
  {
    const std::lock_guard lock(foreign_mutex_);
    foreign_.push_back(job);
  }
  if (wake_) wake_();
}

void ReactorScheduler::take_foreign() {
  const std::lock_guard lock(foreign_mutex_);
  local_.insert(local_.end(), foreign_.begin(), foreign_.end());
  foreign_.clear();
}

bool ReactorScheduler::has_jobs() {
  take_foreign();
  return !local_.empty();
}

void ReactorScheduler::prioritize(std::size_t index) {
  FULGUR_ASSERT(index < local_.size(), "no such job");
  std::swap(local_.front(), local_[index]);
}

std::size_t ReactorScheduler::run_jobs(std::size_t limit) {
  take_foreign();
  std::size_t ran = 0;
  while (ran < limit && !local_.empty()) {
    caf::resumable* job = local_.front();
    local_.pop_front();
    ++ran;
    switch (job->resume(unit_.get(), max_throughput())) {
      case caf::resumable::resume_later:
        local_.push_back(job);
        break;
      case caf::resumable::done:
      case caf::resumable::awaiting_message:
      case caf::resumable::shutdown_execution_unit:
        caf::intrusive_ptr_release(job);
        break;
    }
  }
  return ran;
}

}  // namespace fulgur::actor
