#include "services/orchestrator/membership.hpp"

#include <algorithm>

namespace fulgur::orchestrator {
namespace {

bool holds_weights(wire::ServiceKind kind) {
  return kind == wire::ServiceKind::attention || kind == wire::ServiceKind::expert;
}

}  // namespace

std::string_view to_string(MemberState state) {
  switch (state) {
    case MemberState::alive:
      return "alive";
    case MemberState::suspect:
      return "suspect";
    case MemberState::lost:
      return "lost";
  }
  return "unknown";
}

// Results are bit-equal only between shards and workers that share model, weights and numerics.
Status Membership::check_identity(const wire::Register& info) const {
  constexpr auto kRefused = Code::failed_precondition;
  const bool must_match = holds_weights(info.kind) || info.model_fingerprint != 0;
  if (must_match && info.model_fingerprint != fingerprint_)
    return error(kRefused, "{} serves model {:016x}, this mesh serves {:016x}", info.name,
                 info.model_fingerprint, fingerprint_);
  if (!holds_weights(info.kind)) return Status::ok();
  for (const auto& [name, member] : members_) {
    if (member.state == MemberState::lost || name == info.name) continue;
    if (!holds_weights(member.info.kind)) continue;
    if (member.info.weight_version != info.weight_version)
      return error(kRefused, "{} has weight version {}, {} has {}", info.name, info.weight_version,
                   name, member.info.weight_version);
    if (member.info.numerics != info.numerics)
      return error(kRefused, "{} computes with numerics {}, {} with {}", info.name, info.numerics,
                   name, member.info.numerics);
  }
  return Status::ok();
}

Status Membership::check_room() {
  if (members_.size() < limits_.members_max) return Status::ok();
  const auto oldest = std::min_element(members_.begin(), members_.end(), [](auto& a, auto& b) {
    const auto rank = [](const Member& m) {
      return std::pair(m.state != MemberState::lost, m.last_seen);
    };
    return rank(a.second) < rank(b.second);
  });
  if (oldest->second.state != MemberState::lost)
    return error(Code::resource_exhausted, "the mesh is full: {} members", members_.size());
  members_.erase(oldest);
  return Status::ok();
}

Result<Membership::Arrival> Membership::on_register(transport::LinkId link,
                                                    const wire::Register& info) {
  if (info.name.empty()) return Status(Code::invalid_argument, "a member needs a name");
  if (info.kind > wire::ServiceKind::expert)
    return error(Code::invalid_argument, "a {} cannot register", to_string(info.kind));
  FULGUR_RETURN_IF_ERROR(check_identity(info));
  Arrival arrival = Arrival::joined;
  bool draining = info.draining;
  if (const auto found = members_.find(info.name); found != members_.end()) {
    const Member& old = found->second;
    const bool present = old.state != MemberState::lost;
    // Incarnations are times of start. Those of the lost bind nobody: a clock may have been set back, or
    // the newer process have gone before the older one.
    if (present && info.incarnation < old.info.incarnation)
      return error(Code::failed_precondition,
                   "{} started again since: incarnation {} is older than {}", info.name,
                   info.incarnation, old.info.incarnation);
    draining |= old.draining && info.incarnation == old.info.incarnation;
    if (present && old.info.kind != info.kind)
      return error(Code::invalid_argument, "the name {} belongs to a {}", info.name,
                   to_string(old.info.kind));
    if (present)
      arrival = info.incarnation == old.info.incarnation ? Arrival::again : Arrival::replaced;
  } else {
    FULGUR_RETURN_IF_ERROR(check_room());
  }
  Member member;
  member.info = info;
  member.info.draining = draining;
  member.draining = draining;
  member.link = link;
  member.last_seen = clock_.now();
  member.epoch = info.epoch;
  members_.insert_or_assign(info.name, std::move(member));
  return arrival;
}

Result<bool> Membership::on_heartbeat(transport::LinkId link, const wire::Heartbeat& beat) {
  const auto found = members_.find(beat.name);
  if (found == members_.end() || found->second.info.incarnation != beat.incarnation)
    return error(Code::not_found, "{} is not registered with incarnation {}", beat.name,
                 beat.incarnation);
  Member& member = found->second;
  const bool was_lost = member.state == MemberState::lost;
  member.link = link;
  member.state = MemberState::alive;
  member.last_seen = clock_.now();
  member.epoch = beat.epoch;
  member.load = beat.load;
  return was_lost;
}

void Membership::on_link_down(transport::LinkId link) {
  for (auto& [name, member] : members_) {
    if (member.link != link) continue;
    member.link = 0;
    if (member.state == MemberState::lost) continue;
    member.state = MemberState::suspect;
    member.suspect_until = clock_.now() + limits_.link_grace;
  }
}

void Membership::on_report(const wire::Report& report) {
  const auto found = members_.find(report.worker);
  if (found == members_.end()) return;
  Member& member = found->second;
  if (member.info.incarnation != report.worker_incarnation) return;
  if (member.state == MemberState::lost) return;
  const Nanoseconds now = clock_.now();
  // Others may have lost sight of it by a cut that is between them only: as long as it speaks here,
  // any number of reports makes it no more than suspect.
  const bool confirmed = member.link == 0 || now - member.last_seen > limits_.silent_after;
  if (confirmed)
    member.suspect_until = now;
  else if (member.state != MemberState::suspect)
    member.suspect_until = now + limits_.report_grace;
  member.state = MemberState::suspect;
}

bool Membership::overdue(const Member& member, Nanoseconds now) const {
  if (member.state == MemberState::lost) return false;
  if (member.state == MemberState::suspect && now >= member.suspect_until) return true;
  return now - member.last_seen >= limits_.heartbeat_timeout;
}

std::vector<std::string> Membership::expire() {
  const Nanoseconds now = clock_.now();
  std::vector<std::string> lost;
  for (auto& [name, member] : members_) {
    if (!overdue(member, now)) continue;
    member.state = MemberState::lost;
    lost.push_back(name);
  }
  std::erase_if(members_, [&](const auto& entry) {
    return entry.second.state == MemberState::lost &&
           now - entry.second.last_seen > limits_.forget_after;
  });
  return lost;
}

void Membership::set_draining(const std::string& name, bool draining) {
  Member& member = members_.at(name);
  member.draining = draining;
  member.info.draining = draining;
}

const Member* Membership::find_by_link(transport::LinkId link) const {
  for (const auto& [name, member] : members_)
    if (link != 0 && member.link == link) return &member;
  return nullptr;
}

const Member* Membership::find(const std::string& name) const {
  const auto found = members_.find(name);
  return found == members_.end() ? nullptr : &found->second;
}

std::size_t Membership::count(wire::ServiceKind kind, MemberState state) const {
  return static_cast<std::size_t>(std::count_if(members_.begin(), members_.end(), [&](auto& entry) {
    return entry.second.info.kind == kind && entry.second.state == state;
  }));
}

std::size_t Membership::count_draining(wire::ServiceKind kind) const {
  return static_cast<std::size_t>(std::count_if(members_.begin(), members_.end(), [&](auto& entry) {
    const Member& member = entry.second;
    return member.info.kind == kind && member.draining && member.state == MemberState::alive;
  }));
}

}  // namespace fulgur::orchestrator
