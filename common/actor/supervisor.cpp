#include "common/actor/supervisor.hpp"

#include "common/base/log.hpp"

namespace fulgur::actor {

bool RestartBudget::allow(Nanoseconds now) {
  while (!recent_.empty() && recent_.front() <= now - window_) recent_.pop_front();
  recent_.push_back(now);
  return recent_.size() <= restarts_max_;
}

Supervisor::Supervisor(Self& self, const Clock* clock, SupervisorOptions options,
                       std::vector<ChildSpec> children)
    : self_(self),
      clock_(*clock),
      options_(std::move(options)),
      specs_(std::move(children)),
      budget_(options_.restarts_max, options_.window) {}

caf::behavior Supervisor::make_behavior() {
  keep_ = Handle(&self_);
  self_.set_down_handler([this](const caf::down_msg& down) { on_down(down); });
  for (const auto& spec : specs_) start(spec);
  return {[](caf::unit_t) {}};
}

void Supervisor::start(const ChildSpec& spec) {
  const Handle child = spec.start();
  watch(self_, child);
  running_[child.address()] = static_cast<std::size_t>(&spec - specs_.data());
  spec.on_started(child);
}

void Supervisor::on_down(const caf::down_msg& down) {
  const auto found = running_.find(down.source);
  if (found == running_.end()) return;
  const ChildSpec& spec = specs_[found->second];
  running_.erase(found);
  // kill: the reactor goes, and everybody with it
  const bool normal = !down.reason || down.reason == caf::exit_reason::user_shutdown ||
                      down.reason == caf::exit_reason::kill;
  if (normal) return;
  const std::string why = self_.system().render(down.reason);
  if (!budget_.allow(clock_.now())) {
    log::error("giving up on actor={} after too many restarts why=\"{}\"", spec.name, why);
    if (options_.on_escalate) options_.on_escalate(spec.name, why);
    return;
  }
  log::warn("restarting actor={} why=\"{}\"", spec.name, why);
  start(spec);
}

}  // namespace fulgur::actor
